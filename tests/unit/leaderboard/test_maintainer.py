"""What a maintainer types: slips are answered at once, and nothing of them is held against an entry."""

import dataclasses
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic

from harness import cli, uid
from harness.compose import compose
from harness.entry import write_entry
from harness.errors import ConfigError
from harness.eval import suite as suites
from harness.eval.__main__ import Settings
from harness.pool.sealed import SealedPool
from leaderboard import __main__ as commands
from leaderboard.board import Board
from leaderboard.case import Case, Means
from leaderboard.checks import rescored, retrained
from leaderboard.entries import Entry
from leaderboard.findings import Finding, Verification
from leaderboard.site import build, command
from leaderboard.verified import recall, remember
from leaderboard.verify import verify


@pytest.fixture(scope="module")
def above(sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry above scale tiny (on tiny's tasks, which are small), whose large files stand elsewhere."""
    root = tmp_path_factory.mktemp("above")
    uids = synthetic.subset_of(sealed, keep=0.3)
    run = synthetic.run(root / "run", sealed, uids, scale="debug", suite=suites.load("tiny"))
    config = json.loads((run / "config.json").read_text())
    config["payload"]["suite"] = "tiny"
    (run / "config.json").write_text(json.dumps(config))
    write_entry([run], root / "debug" / "above")
    return root / "debug" / "above"


def test_evaluating_again_is_a_command_that_the_harness_takes(above: Path, tmp_path: Path) -> None:
    case = Case(Entry.load(above), Means(data_dir=tmp_path / "data"))
    tasks = case.scored[:2]
    wanted = rescored.evaluation(case, tmp_path / "weights.safetensors", tasks, tmp_path / "out")
    settings = cli.settings(rescored.arguments(wanted), Settings)
    assert settings.eval.data_dir == str(tmp_path / "data")
    assert settings.checkpoint == str(tmp_path / "weights.safetensors")
    assert (settings.model, settings.suite) == (case.scale.model, "tiny")
    assert settings.tasks == [task.key for task in tasks]


def test_training_again_is_a_command_that_the_harness_takes(above: Path, sealed: SealedPool, tmp_path: Path) -> None:
    case = Case(Entry.load(above), Means(data_dir=tmp_path / "data"))
    settings = retrained.training(case, sealed, tmp_path / "uids.npy", 5)
    config = compose(rescored.arguments(settings))
    assert (config.scale.name, config.seed, config.subset) == ("debug", 5, str(tmp_path / "uids.npy"))
    assert (config.pool.path, config.pool.seal_dir) == (sealed.path, sealed.seal_dir)
    assert (config.eval.data_dir, config.run_dir) == (str(tmp_path / "data"), str(tmp_path / "seed-5"))


@pytest.mark.parametrize("slip", [
    ["--pool", "nowhere"], ["--pool-list", "nowhere.npy"], ["--pool-list", "unsorted.npy"], ["--files", "nowhere"],
    ["--checkpoint", "nowhere.safetensors"], ["--checkpoint", "https://example.org/checkpoint.safetensors"],
    ["--checkpoint", "weights.pt"], ["--data-dir", "nowhere"], ["--tasks", "0"], ["--fetch"],
])  # fmt: skip
def test_a_slip_is_no_finding(slip: list[str], honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pt").touch()
    uid.save("unsorted.npy", uid.from_hex(["2" * 32, "1" * 32]))
    monkeypatch.setattr(commands, "verify", lambda *_, **__: pytest.fail("verified"))
    with pytest.raises(ConfigError, match=slip[0]):
        commands.command(["verify", str(honest), *slip])


def test_the_wrong_checkpoint_is_not_held_against_an_entry(
    sealed: SealedPool, means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = synthetic.run(tmp_path / "run", sealed, synthetic.subset_of(sealed, keep=0.3))
    write_entry([run], tmp_path / "entry")
    (tmp_path / "other.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(rescored, "run_harness", lambda *_, **__: pytest.fail("evaluated"))
    brought = dataclasses.replace(means, checkpoint=tmp_path / "other.safetensors")
    result = verify(tmp_path / "entry", level="rescored", means=brought)
    assert (result.outcome, result.reached) == ("incomplete", "claimed")
    assert "has not the sha256" in result.findings[0].what


def test_what_a_request_takes_away_or_leaves_behind_is_found(
    spoiled: Path, sealed: SealedPool, git: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    root = spoiled.parents[1]
    shutil.copytree(spoiled, spoiled.parent / "other")
    git("add", ".")
    git("commit", "-m", "two")
    arguments = ["verify", str(root), "--changed-since", "main", "--pool", sealed.seal_dir]
    (spoiled.parent / "other" / "entry.json").unlink()
    (root / "note \u00e9.txt").write_text("new")
    (root / os.fsdecode(b"\xff")).touch()
    assert commands.command(arguments) == 1
    said = capsys.readouterr().out
    assert "tiny/other: is in no entry" in said
    assert "note \u00e9.txt: is in no entry" in said
    assert "tiny/spoiled" not in said
    assert r"\udcff: is in no entry" in said
    (root / "note \u00e9.txt").unlink()
    (root / os.fsdecode(b"\xff")).unlink()
    shutil.rmtree(spoiled.parent / "other")
    assert commands.command(arguments) == 1
    assert "tiny/other: was removed" in capsys.readouterr().out
    git("checkout", ".")
    assert commands.command(arguments) == 0


def test_files_that_nobody_can_fetch_are_looked_at(above: Path, means: Means) -> None:
    result = verify(above, means=means)
    assert [finding.what for finding in result.of("warning") if finding.check == "addresses"]
    where = Path(shutil.copytree(above, above.parents[1] / "with-addresses" / "above"))
    record = json.loads((where / "entry.json").read_text())
    record["payload"]["elsewhere"]["uids.npy"]["url"] = "https://example.org/uids.npy"
    (where / "entry.json").write_text(json.dumps(record))
    assert "addresses" not in {finding.check for finding in verify(where, means=means).findings}


def _commands(folder: Path) -> list[str]:
    board = Board.load(folder.parents[1], verified=folder.parents[1] / "none")
    return command(next(row for row in board.rows if row.entry.slug == folder.name)).split("\n")


def test_how_to_run_it_again_says_where_the_uid_file_is(honest: Path, above: Path) -> None:
    method, again = [compose(shlex.split(line)[3:]) for line in _commands(honest) if line[0] != "#"]
    assert (method.method.name, again.subset) == ("clip_score", "leaderboard/entries/tiny/honest/uids.npy")
    said = _commands(above)
    assert "# (its authors give no address; ask them)" in said
    config = compose(shlex.split(said[-1])[3:])
    assert (config.subset, config.pool.path, config.eval.data_dir) == ("FILES/uids.npy", "POOL", "TASKS")
    where = Path(shutil.copytree(above, above.parents[1] / "debug" / "published"))
    record = json.loads((where / "entry.json").read_text())
    record["payload"]["elsewhere"]["uids.npy"]["url"] = "https://example.org/uids.npy"
    (where / "entry.json").write_text(json.dumps(record))
    assert "python -m leaderboard verify leaderboard/entries/debug/published --files FILES --fetch" in _commands(where)


def _result(entry: Path, level: str, outcome: str, reached: str | None) -> Verification:
    found = [Finding(severity="error", check="trained again", where="entry.json", what="average .9 stated, .2 again")]
    return Verification.model_validate({
        "entry": str(entry), "digest": Entry.load(entry).record.digest, "level": level, "outcome": outcome,
        "reached": reached, "checks": ["files"], "findings": found if outcome == "invalid" else [], "seconds": 1.0,
    })  # fmt: skip


def test_a_failed_training_is_kept_and_shown(honest: Path, tmp_path: Path) -> None:
    kept, entry = tmp_path / "verified", Entry.load(honest)
    remember(_result(honest, "rescored", "ok", "rescored"), honest, kept)
    remember(_result(honest, "retrained", "invalid", None), honest, kept)
    remember(_result(honest, "rescored", "ok", "rescored"), honest, kept)
    found = recall(entry, kept)
    assert found is not None
    assert (found.outcome, found.reached) == ("invalid", None)
    build(Board.load(honest.parents[1], verified=kept), tmp_path / "site")
    page = (tmp_path / "site" / "entries" / "tiny-honest.html").read_text()
    assert "average .9 stated, .2 again" in page
    assert "Nothing was found amiss" not in page
    remember(_result(honest, "retrained", "ok", "retrained"), honest, kept)
    assert (again := recall(entry, kept)) is not None
    assert again.reached == "retrained"


def test_write_keeps_what_was_found(
    honest: Path, sealed: SealedPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[Verification] = []
    monkeypatch.setattr(commands, "remember", lambda result, _: kept.append(result))
    monkeypatch.setattr(commands, "verify", lambda folder, **_: _result(folder, "retrained", "invalid", None))
    arguments = ["verify", str(honest), "--pool", sealed.seal_dir, "--write"]
    assert commands.command(arguments) == 1
    assert [result.outcome for result in kept] == ["invalid"]
    monkeypatch.setattr(commands, "verify", lambda folder, **_: _result(folder, "claimed", "broken", None))
    assert commands.command(arguments) == 7
    assert len(kept) == 1


def test_an_honest_entry_of_another_order_is_accepted(sealed: SealedPool, means: Means, tmp_path: Path) -> None:
    uids = synthetic.subset_of(sealed, keep=0.3)
    write_entry([synthetic.run(tmp_path / "run", sealed, uids, order="with_replacement")], tmp_path / "entry")
    result = verify(tmp_path / "entry", means=means)
    assert result.outcome == "ok"
    assert [(finding.severity, finding.where, finding.what) for finding in result.findings] == [
        ("warning", "entry.json", "the run changed train.order: it is unofficial, and the board shows it unranked")
    ]
    assert Entry.load(tmp_path / "entry").payload.unofficial == ["train.order"]
