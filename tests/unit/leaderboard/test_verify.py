"""The ladder on entries without fault, on what is missing, and on our own failures."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic
from hostile.forger import Forger

from harness import uid
from harness.entry import write_entry
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.pool.sealed import SealedPool
from harness.records import read_record, write_record
from leaderboard import __main__ as commands
from leaderboard import means as fetching
from leaderboard import safe
from leaderboard.case import Case, Means, SkippedError
from leaderboard.checks import LADDER, chain, copies, rescored, retrained
from leaderboard.entries import Entry
from leaderboard.findings import Verification
from leaderboard.verify import verify


def test_an_honest_entry_is_claimed_without_findings(honest: Path, means: Means) -> None:
    result = verify(honest, means=means)
    assert (result.outcome, result.reached, result.findings) == ("ok", "claimed", [])
    assert set(LADDER["claimed"]) <= set(result.checks)


def test_without_the_pool_the_level_is_not_reached(honest: Path) -> None:
    result = verify(honest)
    assert (result.outcome, result.reached) == ("incomplete", None)
    assert {finding.check for finding in result.of("skipped")} == {"in the pool", "ledger"}


def test_another_pool_is_not_taken_for_the_entrys(honest: Path, tmp_path: Path) -> None:
    other = synthetic.world(tmp_path / "other", seed=1)
    result = verify(honest, means=Means(pool=other))
    assert result.outcome == "invalid"
    assert "not the generated pool" in result.of("error")[0].what


def test_predictions_give_the_stated_scores(honest: Path, means: Means) -> None:
    result = verify(honest, level="rescored", means=means)
    assert (result.outcome, result.reached) == ("incomplete", "claimed")
    assert [finding.check for finding in result.findings] == ["evaluated again"]


def _again(
    shift: float, tasks: int | None, honest: Path, run_dirs: list[Path], means: Means, monkeypatch: pytest.MonkeyPatch
) -> Verification:
    """The verification up to `rescored` if evaluating again gives the stated scores plus `shift`."""
    files = honest.parent / f"files-{shift}-{tasks}"
    for seed, run in enumerate(run_dirs):
        place = files / f"seed-{seed}" / "train"
        place.mkdir(parents=True)
        (place / "checkpoint.safetensors").write_bytes((run / "train" / "checkpoint.safetensors").read_bytes())

    def evaluate(module: str, settings: dict[str, str], *, theirs: Path) -> None:
        weights = Path(settings["checkpoint"]).read_bytes()
        source = next(run for run in run_dirs if (run / "train" / "checkpoint.safetensors").read_bytes() == weights)
        for path in (source / "eval").glob("*.json"):
            record = json.loads(path.read_text())
            if record["kind"] == "task" and record["payload"]["score"] is not None:
                record["payload"]["score"] = min(record["payload"]["score"] + shift, 1.0)
            (Path(settings["out"]) / path.name).write_text(json.dumps(record))

    monkeypatch.setattr(rescored, "run_harness", evaluate)
    return verify(honest, level="rescored", means=dataclasses.replace(means, files=files, tasks=tasks))


@pytest.mark.parametrize(
    ("shift", "tasks", "outcome"), [(0.0, None, "ok"), (0.0005, None, "ok"), (0.0005, 8, "ok"), (0.02, 8, "invalid")]
)
def test_evaluating_again_agrees_within_the_tolerance(
    shift: float, tasks: int | None, outcome: str,
    honest: Path, run_dirs: list[Path], means: Means, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    result = _again(shift, tasks, honest, run_dirs, means, monkeypatch)
    assert (result.outcome, len(result.evaluated)) == (outcome, tasks or 38)


def test_our_own_failure_is_not_held_against_the_entry(
    honest: Path, means: Means, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> object:
        raise InfraError("the disk is full")

    monkeypatch.setattr("leaderboard.case.count", full)
    result = verify(honest, means=means)
    assert result.outcome == "broken"
    assert "the disk is full" in result.findings[-1].what


def test_a_multiset_of_uids_is_verified(sealed: SealedPool, means: Means, tmp_path: Path) -> None:
    once = synthetic.subset_of(sealed, keep=0.2)
    uids = uid.sort(np.concatenate([once, once[::2], once[:10]]))
    entry = tmp_path / "entry"
    write_entry([synthetic.run(tmp_path / "run", sealed, uids)], entry)
    assert verify(entry, means=means).outcome == "ok"


def test_the_realised_pool_is_checked_against_the_full_list(
    sealed: SealedPool, run_dirs: list[Path], means: Means, tmp_path: Path
) -> None:
    more = synthetic.world(tmp_path / "more", samples=500, seed=9)
    uid.save(tmp_path / "list.npy", uid.sort(np.concatenate([np.asarray(sealed.uids), np.asarray(more.uids)])))
    record = write_entry(run_dirs, tmp_path / "entry", pool_list=tmp_path / "list.npy")
    assert record.payload["pool"]["listed"] == 3500
    complete = dataclasses.replace(means, pool_list=uid.load(tmp_path / "list.npy"))
    assert verify(tmp_path / "entry", means=complete).outcome == "ok"
    assert verify(tmp_path / "entry", means=means).of("skipped")
    uid.save(tmp_path / "other.npy", np.asarray(more.uids))
    wrong = verify(tmp_path / "entry", means=dataclasses.replace(means, pool_list=uid.load(tmp_path / "other.npy")))
    assert wrong.outcome == "invalid"


def test_a_bitmap_above_the_limit_of_files_is_verified_from_elsewhere(
    sealed: SealedPool, means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = synthetic.world(tmp_path / "more", samples=1_000_000, seed=9)
    uid.save(tmp_path / "list.npy", uid.sort(np.concatenate([np.asarray(sealed.uids), np.asarray(more.uids)])))
    run = synthetic.run(tmp_path / "run", sealed, synthetic.subset_of(sealed, keep=0.3))
    listed = dataclasses.replace(means, pool_list=uid.load(tmp_path / "list.npy"))
    monkeypatch.setattr(safe, "MAX_FILE", 100_000)  # the bitmap has 125,375 bytes
    write_entry([run], tmp_path / "within", pool_list=tmp_path / "list.npy")
    assert "more than 100,000" in verify(tmp_path / "within", means=listed).findings[-1].what

    monkeypatch.setattr("harness.realised.IN_FOLDER", 100_000)
    folder = tmp_path / "entry"
    record = write_entry([run], folder, pool_list=tmp_path / "list.npy")
    assert not (folder / "realised.npy").exists()
    assert record.payload["elsewhere"]["realised.npy"]["bytes"] == (run / "realised.npy").stat().st_size > 125_375
    assert [finding.check for finding in verify(folder, means=listed).of("skipped")] == ["realised pool"]

    brought = dataclasses.replace(listed, files=tmp_path / "files")
    there = tmp_path / "files" / "realised.npy"
    there.parent.mkdir()
    there.write_bytes((run / "realised.npy").read_bytes())
    assert verify(folder, means=brought).outcome == "ok"
    content = bytearray(there.read_bytes())
    content[-1] ^= 1
    there.write_bytes(content)
    wrong = verify(folder, means=brought)
    assert (wrong.outcome, ["sha256" in finding.what for finding in wrong.findings]) == ("incomplete", [True])


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"tiny": {"average": 0.1}}, "average 0.3"), ({"tiny": {"mnist": 0.1}}, "mnist 0.3"),
        ({"tiny": {"average": 0.32, "mnist": 0.2}}, None), ({"small": {"average": 0.1}}, None), ({}, None),
    ],
)  # fmt: skip
def test_too_good_is_looked_at_and_not_refused(
    known: dict[str, dict[str, float]], found: str | None, honest: Path, means: Means
) -> None:
    result = verify(honest, means=dataclasses.replace(means, best_known=known))
    assert result.outcome == "ok"
    warnings = [finding.what for finding in result.of("warning")]
    assert warnings == [] if found is None else "too good" in warnings[0] and found in warnings[0]


def test_a_file_of_the_entry_at_fault_is_not_our_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / "checkpoint.safetensors"

    def ends(code: int, message: str) -> None:
        done = subprocess.CompletedProcess([], code, "", f"…\nerror: {message}\n")
        monkeypatch.setattr(rescored.subprocess, "run", lambda *_, **__: done)
        rescored.run_harness("harness.eval", {}, theirs=weights)

    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: its weights do not fit"):
        ends(5, f"{weights}: its weights do not fit model clip-tiny")
    for code, message in ((5, "/data/eval: no such folder"), (7, f"{weights}: the disk is full"), (-9, "killed")):
        with pytest.raises(InfraError):
            ends(code, message)


def test_seeds_that_were_picked_are_looked_at(sealed: SealedPool, means: Means, tmp_path: Path) -> None:
    uids = synthetic.subset_of(sealed, keep=0.2)
    write_entry([synthetic.run(tmp_path / "run", sealed, uids, seed=7)], tmp_path / "entry")
    result = verify(tmp_path / "entry", means=means)
    assert result.outcome == "ok"
    assert "seeds [7] are not 0 to 0" in result.of("warning")[0].what


def test_an_address_that_is_none_is_the_entrys_fault(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an address"):
        fetching._download("http://[", tmp_path / "file", limit=10)


def test_exit_codes(honest: Path, sealed: SealedPool, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    pool = ["--pool", sealed.seal_dir]
    assert commands.command(["verify", str(honest), *pool]) == 0
    assert "claimed    ok" in capsys.readouterr().out
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "entry.json").write_text("{}")
    assert commands.command(["verify", str(tmp_path / "bad"), "--json", *pool]) == 1
    assert json.loads(capsys.readouterr().out)[0]["findings"][0]["severity"] == "error"

    def broken(*_: object, **__: object) -> object:
        raise InfraError("no memory")

    monkeypatch.setattr("leaderboard.verify._climb", broken)
    assert commands.command(["verify", str(honest), *pool]) == 7


def test_only_changed_entries_are_verified(
    spoiled: Path, sealed: SealedPool, git: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    root = spoiled.parents[1]
    arguments = ["verify", str(root), "--changed-since", "main", "--pool", sealed.seal_dir]
    assert commands.command(arguments) == 0
    assert "no entries to verify" in capsys.readouterr().out
    (spoiled / "note.txt").write_text("new")
    assert commands.command(arguments) == 1
    assert "note.txt" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nowhere"):
        commands.command([*arguments[:3], "nowhere"])


def _marked(*folders: Path) -> Means:
    return Means(marks=copies.index(map(Entry.load, folders)))


def test_a_copy_under_another_name_is_told(honest: Path, spoiled: Path, means: Means) -> None:
    forger = Forger(spoiled)
    forger.payload(lambda payload: payload["about"].update(name="Mine", authors=["M. E."]))
    marks = _marked(honest, spoiled).marks
    for folder, other in ((spoiled, "tiny/honest by A. Author"), (honest, "tiny/spoiled by M. E.")):
        result = verify(folder, means=dataclasses.replace(means, marks=marks))
        assert result.outcome == "ok"
        assert [finding.what for finding in result.findings] == [
            f"same weights, uid file, scores as {other}; ask whose work it is"
        ]


def test_what_of_another_entry_is_there_is_named(
    honest: Path, run_dirs: list[Path], sealed: SealedPool, means: Means, tmp_path: Path
) -> None:
    def told(folder: Path) -> list[str]:
        result = verify(folder, means=dataclasses.replace(means, marks=_marked(honest).marks))
        return [finding.what.split(" as ")[0] for finding in result.findings if finding.check == "copies"]

    uids = uid.load(run_dirs[0] / "uids.npy")
    write_entry([synthetic.run(tmp_path / "again", sealed, uids, skill=0.2, seed=2)], tmp_path / "method")
    assert told(tmp_path / "method") == ["same uid file"]
    # One uid less and weights saved anew: the answers are still another's.
    run = synthetic.run(tmp_path / "run", sealed, uids[1:])
    write_entry([run], tmp_path / "less")
    assert told(tmp_path / "less") == ["same scores"]
    other = synthetic.run(tmp_path / "other", sealed, uids[1:], skill=0.2)
    write_entry([other], tmp_path / "own")
    assert told(tmp_path / "own") == []
    assert told(honest) == []


@pytest.mark.parametrize(
    ("shift", "seed", "found"),
    [(0.0, 5, None), (0.02, 5, None), (0.05, 5, "when trained again with seed 5"), (-0.05, 5, "when trained again"),
     (0.0, 1, "seed 1 is one of the entry's")],
)  # fmt: skip
def test_training_again_agrees_within_the_noise_of_seeds(
    shift: float, seed: int, found: str | None,
    honest: Path, run_dirs: list[Path], means: Means, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    case = Case(Entry.load(honest), dataclasses.replace(means, work=tmp_path, seed=seed))
    stated = case.payload.aggregates["average"].mean or 0.0

    def train(module: str, settings: dict[str, str], *, theirs: Path) -> None:
        assert np.array_equal(uid.load(theirs), uid.load(run_dirs[0] / "uids.npy"))
        record = read_record(run_dirs[0] / "eval" / "evaluation.json", "evaluation")
        record.payload["aggregates"]["average"] = stated + shift
        write_record(Path(settings["run_dir"]) / "eval" / "evaluation.json", record)

    monkeypatch.setattr(retrained, "run_harness", train)
    try:
        notes = [note.what for note in retrained.retrain(case)]
    except SkippedError as reason:
        notes = [str(reason)]
    assert notes == [] if found is None else found in notes[0]


def test_mean_repeats_are_stated_to_six_places(spoiled: Path) -> None:
    forger, size = Forger(spoiled), 4_000_003
    forger.edit("subset.json", lambda record: record["payload"].update(size=size))
    for repeats, found in ((round(65_536 / size, 6), []), (0.0164, ["subset.mean_repeats"])):
        forger.payload(lambda payload, repeats=repeats: payload["subset"].update(size=size, mean_repeats=repeats))
        notes = [note.what for note in chain.summary(Case(Entry.load(spoiled), Means()))]
        assert [what.split(" is ")[0] for what in notes] == found
