"""The list of the shipped board, and running what is missing of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import synthetic
from waiting import running, until

from harness.errors import ConfigError, StageError
from harness.records import Record, write_record

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import board
    import rounds

    return board, rounds


@pytest.mark.slow
def test_every_entry_of_the_list_is_a_run_that_exists(scripts):
    board, _ = scripts
    listed = board.load()
    for slug in listed.entries:
        jobs = listed.rounds(slug, Path("runs"))
        assert not jobs[0].settings()["unofficial"], slug
        assert len({job.folder for job in jobs}) == len(jobs), slug
        assert listed.about(slug).name == slug


def _finish(job, **changes):
    write_record(job.folder / "config.json", Record(kind="config", payload={**job.settings(), **changes}))
    write_record(job.folder / "entry" / "entry.json", Record(kind="entry", payload={}))


def test_a_round_is_done_only_with_its_own_settings(scripts, tmp_path):
    _, rounds = scripts
    job = rounds.Round(name="few", overrides=("method=random_subset", "method.fraction=0.1"), seed=1, runs=tmp_path)
    assert job.folder == tmp_path / "tiny-few-seed1"
    assert not job.done()
    _finish(job)
    assert job.done()
    _finish(job, seed=2)
    assert not job.done()


def test_a_failed_round_is_named_and_the_others_go_on(scripts, tmp_path, monkeypatch):
    _, rounds = scripts
    seen = []

    def fake(command, *, env, stdout, **_):
        seen.append((command[3:], env["OMP_NUM_THREADS"]))
        failed = "method=bad" in command
        stdout.write("working\nerror: no such thing\n" if failed else "working\n")
        return Mock(wait=lambda: 4 if failed else 0)

    monkeypatch.setattr(rounds.subprocess, "Popen", Mock(side_effect=fake))
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda _: set(range(6)))
    jobs = [rounds.Round(name=name, overrides=(f"method={name}",), seed=0, runs=tmp_path) for name in ("bad", "good")]
    failed = rounds.run(jobs, jobs=2)
    assert list(failed) == [jobs[0]]
    assert "no such thing" in failed[jobs[0]]
    assert sorted(seen) == [(job.arguments, "3") for job in jobs]


STOPPED = """
import signal, sys
from pathlib import Path
import rounds
from harness import cli
sys.executable = sys.argv[2]  # takes harness.run's place
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
jobs = [rounds.Round(name=str(n), overrides=(), seed=0, runs=Path(sys.argv[1])) for n in range(4)]
cli.main(lambda argv: len(rounds.run(jobs, jobs=2)))
"""
SLOW = """#!/bin/sh
for last; do :; done
echo $$ > "${last#run_dir=}.pid"
exec sleep 600
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_rounds_at_hand_are_stopped_and_no_further_one_is_started(tmp_path, number):
    slow = tmp_path / "slow.sh"
    slow.write_text(SLOW)
    slow.chmod(0o755)
    command = [sys.executable, "-c", STOPPED, str(tmp_path), str(slow)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(SCRIPTS)}, stderr=subprocess.PIPE) as board:
        until(lambda: len([path for path in tmp_path.glob("*.pid") if path.read_text()]) == 2 or board.poll())
        children = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
        board.send_signal(number)
        said = board.communicate()[1].decode()
    assert board.returncode == 128 + number and "Traceback" not in said, said
    assert len(children) == len(list(tmp_path.glob("*.pid"))) == 2
    until(lambda: not any(map(running, children)))


def test_what_failed_is_said_at_the_end(scripts, tmp_path, monkeypatch):
    board, rounds = scripts
    monkeypatch.setattr(board.cache, "ensure_pool", lambda: "pool")
    monkeypatch.setattr(board.cache, "ensure_tasks", lambda: None)
    monkeypatch.setattr(board, "seal", lambda path, **_: type("Sealed", (), {"path": path}))
    asked = []

    def fake(missing, *, jobs):
        asked.extend(missing)
        return {missing[0]: "seed 0 broke"}

    monkeypatch.setattr(rounds, "run", fake)
    places = [f"runs={tmp_path / 'runs'}", f"entries={tmp_path / 'entries'}"]
    with pytest.raises(StageError, match="seed 0 broke"):
        board.command(["only=no_filter", *places])
    assert [job.seed for job in asked] == [0, 1, 2]
    with pytest.raises(ConfigError, match="did you mean 'no_filter'"):
        board.command(["only=no_filtr", *places])


def test_a_shipped_entry_needs_no_runs(scripts, tmp_path, capsys):
    board, _ = scripts
    board.command(["only=no_filter", "dry_run=true", f"runs={tmp_path}"])
    assert "no_filter" in (said := capsys.readouterr().out)
    assert "entry" in said
    assert "0 rounds missing" in said
    board.command(["only=no_filter", "dry_run=true", f"runs={tmp_path}", f"entries={tmp_path}"])
    assert "3 rounds missing" in capsys.readouterr().out


def test_rescoring_takes_checkpoints_from_the_run_folders(scripts, tmp_path, monkeypatch):
    board, rounds = scripts
    sealed = synthetic.world(tmp_path / "pool", samples=500)
    uids = synthetic.subset_of(sealed, keep=0.5)
    jobs = [rounds.Round(name="mine", overrides=(), seed=seed, runs=tmp_path) for seed in (0, 1)]
    for job in jobs:
        synthetic.run(job.folder, sealed, uids, seed=job.seed)
    asked = []

    def leaderboard(argv):
        files = Path(argv[argv.index("--files") + 1])
        weights = [files / f"seed-{job.seed}" / "train" / "checkpoint.safetensors" for job in jobs]
        asked.append((argv[:4], [path.read_text() for path in weights]))
        return 1

    monkeypatch.setattr(board, "leaderboard", leaderboard)
    assert not board.verify(tmp_path / "entry", jobs, "rescored")
    own = [(job.folder / "train" / "checkpoint.safetensors").read_text() for job in jobs]
    assert asked == [(["verify", str(tmp_path / "entry"), "--level", "rescored"], own)]
    assert own[0] != own[1]
