"""What the end of a run shows: how long each stage took, and the run beside the entries on the board."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from harness.entry import load_entry
from harness.errors import HarnessError
from harness.files import checkout
from harness.progress import console, say
from harness.records import Record

AGGREGATE_TITLES = {
    "imagenet": "ImageNet",
    "shifts": "shifts",
    "vtab": "VTAB",
    "retrieval": "retrieval",
    "average": "average",
}


def print_tables(rows: Sequence[tuple[str, str, float]], *, scale: str, entry: Record, run_dir: Path) -> None:
    """Print `rows` (stage, what, seconds) and the board of `scale` with this run's entry in its place by average."""
    took = Table("stage", "what", "took", box=None)
    for name, what, seconds in rows:
        took.add_row(name, what, f"{int(seconds) // 60}:{int(seconds) % 60:02d}")
    console.print(took)
    board = Table(f"{scale} board", *AGGREGATE_TITLES.values(), box=None)
    lines = [(f"{entry.payload['about']['name']} (this run)", entry), *board_entries(scale)]
    for name, record in sorted(lines, key=lambda line: (-(mean(line[1], "average") or 0.0), line[0])):
        style = "bold" if record is entry else ""
        board.add_row(name, *(shown(mean(record, key)) for key in AGGREGATE_TITLES), style=style)
    console.print(board)
    say(f"entry: {run_dir}/entry/entry.json   charts: {run_dir}/*.png")


def board_entries(scale: str) -> list[tuple[str, Record]]:
    """Name and record of each entry of `scale` below ./leaderboard/entries, else below the checkout's."""
    for root in (Path(), checkout()):
        folders = sorted(path.parent for path in (root / "leaderboard" / "entries" / scale).glob("*/entry.json"))
        if folders:
            return [found for folder in folders if (found := _read(folder)) is not None]
    return []


def _read(folder: Path) -> tuple[str, Record] | None:
    try:
        record = load_entry(folder).record
    except HarnessError as error:  # a broken entry of somebody else must not spoil this run's end
        say(f"left out of the table: {error}")
        return None
    return record.payload["about"]["name"], record


def mean(entry: Record, aggregate: str) -> float | None:
    """The entry's mean over seeds of one of the five aggregates; None if a task is missing."""
    value: float | None = entry.payload["aggregates"][aggregate]["mean"]
    return value


def shown(score: float | None) -> str:
    """A score as tables print it: `.351`, or `-` for none."""
    return "-" if score is None else f"{score:.3f}".removeprefix("0")
