"""What a round gives back is short to look at."""

from pathlib import Path

from harness.files import checkout
from harness.records import read_record
from harness.stages import RunResult


def test_a_result_is_shown_in_one_line() -> None:
    entry = read_record(checkout() / "leaderboard" / "entries" / "tiny" / "clip_score" / "entry.json", "entry")
    result = RunResult(run_dir=Path("runs/r"), entry=entry, aggregates={"average": 0.123456})
    seeds = ", ".join(str(run["seed"]) for run in entry.payload["runs"])
    assert repr(result) == (f"RunResult(method=clip_score, scale=tiny, seed={seeds}, average=0.1235, run_dir=runs/r)")
    ready = entry.model_copy(update={"payload": entry.payload | {"method": None}})
    assert "method=None, " in repr(RunResult(run_dir=Path("r"), entry=ready, aggregates={"average": None}))
