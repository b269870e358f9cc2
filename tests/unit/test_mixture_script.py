"""The search that cluster_mixture chooses by, with made-up scores in place of training."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from baselines import _given
from baselines._mixtures import Runs
from harness.errors import ConfigError, StageError

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def mixture(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import mixture

    monkeypatch.setattr(mixture.board, "ready", lambda *_: None)
    scores = {"payload": {"aggregates": {"average": 0.25}}}
    subset = {"payload": {"remarks": ["clusters: 2", "mixture after 0 runs in 0 rounds: 0.250, 0.750"]}}
    run = SimpleNamespace(evaluation=SimpleNamespace(**scores), subset=SimpleNamespace(**subset))
    monkeypatch.setattr(mixture, "read_run", lambda folder: run)
    return mixture


def test_later_rounds_choose_by_the_runs_of_those_before(mixture, monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(mixture.rounds, "run", lambda wanted, *, jobs: trained.append(wanted) or {})
    out = tmp_path / "told.json"
    mixture.command([f"out={out}", f"runs={tmp_path}", "candidates=4,3"])
    first, second = trained
    assert [len(first), len(second)] == [4, 3]
    params = [job.settings()["method"]["params"] for job in (first[2], second[0])]
    known = params[1]["runs"]
    assert [(one["candidate"], one["runs"]) for one in params] == [(2, None), (0, known)]
    assert second[0].settings()["unofficial"] == ["scale.samples_seen"]
    assert len({job.folder for job in first + second}) == 7
    found = _given.read(Runs, str(out)).rounds
    assert all(run.mixture == [0.25, 0.75] for runs in found for run in runs)
    assert [[(run.candidate, run.score) for run in runs] for runs in found] == [
        [(number, 0.25) for number in range(4)], [(number, 0.25) for number in range(3)],
    ]  # fmt: skip
    assert len(_given.read(Runs, known).rounds) == 1


def test_rounds_that_follow_from_other_runs_are_other_rounds(mixture, monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(mixture.rounds, "run", lambda wanted, *, jobs: trained.append(wanted) or {})
    for candidates in ("4,3", "5,3"):
        mixture.command([f"out={tmp_path / 'told.json'}", f"runs={tmp_path}", f"candidates={candidates}"])
    folders = [{job.folder for job in wanted} for wanted in trained]
    assert folders[0] < folders[2] and not folders[1] & folders[3]
    assert trained[1][0].settings() != trained[3][0].settings()


def test_a_run_that_failed_leaves_nothing_to_choose_by(mixture, monkeypatch, tmp_path):
    monkeypatch.setattr(mixture.rounds, "run", lambda wanted, *, jobs: {wanted[1]: "no room"})
    out = tmp_path / "told.json"
    with pytest.raises(StageError, match=r"1 runs of round 0 failed:\n  no room"):
        mixture.command([f"out={out}", f"runs={tmp_path}", "candidates=3"])
    assert not out.exists()


def test_what_is_missing_is_said_and_a_round_is_no_word(mixture, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(mixture.rounds, "run", None)
    mixture.command([f"runs={tmp_path}", "dry_run=true", "candidates=3,5"])
    assert capsys.readouterr().out == "round 0: 3 rounds missing\n"
    for wrong in ("many", "24,2", ""):
        with pytest.raises(ConfigError, match="candidates"):
            mixture.command([f"candidates={wrong}"])
