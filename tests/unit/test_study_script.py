"""The pages of the protocol studies, from made-up results."""

from pathlib import Path

import numpy as np
import pytest

from harness.errors import ArtifactError, ConfigError, StageError

SCRIPTS = Path(__file__).parents[2] / "scripts"
VARIANTS = {"half": "scale.lr=0.0005"}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import study

    return study


def _cells(study, averages):
    """Two seeds around each average, all five aggregates alike."""
    rng = np.random.default_rng(0)

    def result(value):
        replicates = np.full((5, 30), value) + rng.normal(0, 0.001, 30)
        return study.Result(eval=Path("eval"), aggregates=np.full(5, value), replicates=replicates.astype(np.float32))

    return {
        key: {0: result(value - 0.001), 1: result(value + 0.001)}
        for key, value in averages.items()
        if value is not None
    }


def test_the_page_says_which_pairs_changed_places_and_shows_gaps(study, tmp_path):
    base, half = {"a": 0.2, "b": 0.25, "c": 0.3, "d": 0.35}, {"a": 0.2, "b": 0.3, "c": 0.25, "d": None}
    averages = {("base", m): v for m, v in base.items()} | {("half", m): v for m, v in half.items()}
    cells = _cells(study, averages)
    page = study.ranking_page(VARIANTS, list(base), cells)
    assert "| `a` | 0.2000 (0.1990, 0.2010) | 0.2000 (0.1990, 0.2010) |" in page
    assert "| `d` | 0.3500 (0.3490, 0.3510) | - |" in page
    assert "half: `c` is above `b` in the base, below it here (significant in both)" in page
    row = next(line for line in page.splitlines() if line.startswith("| half |"))
    assert row.startswith("| half | 3 | 0.33 ")
    assert row.endswith("| 1 | 1 |")
    study.draw_ranking(["half"], list(base), cells, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_any_variant_run_still_shows_the_base(study, tmp_path):
    cells = _cells(study, {("base", "a"): 0.2, ("base", "b"): 0.3})
    page = study.ranking_page(VARIANTS, ["a", "b"], cells)
    assert "| half | 0 | - |" in page
    study.draw_ranking(["half"], ["a", "b"], cells, tmp_path / "picture.png")


def test_what_a_person_wrote_is_kept(study):
    page = study.splice(None, "Title", "first")
    mine = page.replace(study.HUMAN, "## Conclusion\n\nIt holds.\n\n") + "\nA note below.\n"
    again = study.splice(mine, "Title", "second")
    assert "It holds." in again
    assert "A note below." in again
    assert "second" in again
    assert "first" not in again
    with pytest.raises(ArtifactError, match="put them back"):
        study.splice("# Title\n", "Title", "third")


def test_rounds_of_a_study_start_from_those_of_the_board(study):
    plan = study.planned(study.board.load(), "learning_rate", ["random_subset_10"], [0, 1], Path("runs"))
    assert len(plan) == 6
    assert plan["base", "random_subset_10", 1].folder == Path("runs/tiny-random_subset_10-seed1")
    half = plan["half_lr", "random_subset_10", 1]
    assert half.folder == Path("runs/tiny-random_subset_10-half_lr-seed1")
    assert half.settings()["unofficial"] == ["scale.lr"]
    assert half.settings()["method"]["params"]["fraction"] == 0.1
    assert half.settings()["scale"]["lr"] == 0.0005


def test_every_variant_changes_the_locked_recipe(study):
    listed = study.board.load()
    assert set(study.METHODS) <= set(listed.entries)
    for name, variants in study.STUDIES.items():
        plan = study.planned(listed, name, ["no_filter"], [0], Path("runs"))
        assert [bool(job.settings()["unofficial"]) for job in plan.values()] == [False] + [True] * len(variants)


def test_a_study_that_does_not_exist_is_named(study):
    with pytest.raises(ConfigError, match="did you mean 'signal'"):
        study.command(["signals"])
    with pytest.raises(ConfigError, match="did you mean 'clip_score'"):
        study.command(["signal", "methods=clip_scor"])
    with pytest.raises(ConfigError, match="seeds"):
        study.command(["signal", "seeds=first"])


def test_what_rounds_read_is_made_before_they_run_side_by_side(study, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(study.board, "ready", lambda listed, slugs: steps.append(("ready", set(slugs))))
    monkeypatch.setattr(study.rounds, "run", lambda missing, *, jobs: steps.append(("run", len(missing))) or {})
    where = [f"runs={tmp_path}", f"entries={tmp_path}", f"out={tmp_path}"]
    with pytest.raises(StageError, match="none of the 4 runs of this study is there"):
        study.command(["model_shape", "methods=phash_dedup,dsir,phash_dedup", "seeds=1,1", *where])
    assert not list(tmp_path.iterdir())
    assert steps == [("ready", {"phash_dedup", "dsir"}), ("run", 4)]


@pytest.mark.slow
def test_a_study_is_written_from_the_shipped_entries_alone(study, tmp_path):
    names = ["no_filter", "random_subset", "clip_score"]
    where = [f"methods={','.join(names)}", f"runs={tmp_path}", f"out={tmp_path}"]
    study.command(["signal", *where])
    page = (tmp_path / "signal.md").read_text()
    assert "6 runs of 3 methods, seeds 0, 1." in page
    assert page.count("\n| `") == 38
    study.command(["learning_rate", "run=false", *where])
    page = (tmp_path / "learning_rate.md").read_text()
    assert "**Not there yet:** `clip_score` double_lr (seed 0, 1)" in page
    assert "| base, measured again | 3 | 1.00 " in page


@pytest.mark.slow
def test_what_a_study_lacks_is_timed_by_the_shipped_entries(study, tmp_path, capsys):
    study.command(["samples_seen", "methods=clip_score", "seeds=0", "dry_run=true", f"runs={tmp_path}"])
    first, last = capsys.readouterr().out.splitlines()
    assert first == str(tmp_path / "tiny-clip_score-twice_samples-seed0")
    assert last.startswith("1 rounds missing, about ")
