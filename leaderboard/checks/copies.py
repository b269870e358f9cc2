"""Whether an entry is another one of the board under a new name."""

from collections.abc import Hashable, Iterable
from pathlib import Path

from harness.entry_schema import EntryPayload
from leaderboard.case import Case, Mark, Notes, warning
from leaderboard.entries import Entry


def marks(payload: EntryPayload) -> set[Mark]:
    """What two entries have in common only if one is made from the other, or both from the same uid file.

    Weights that were saved anew have another sha256; their scores stay what they are.
    """
    scored = sorted((task.key, task.seeds) for task in payload.tasks if task.score is not None)
    answers: list[Hashable] = list(zip(*(seeds for _, seeds in scored), strict=False))
    return {
        ("uid file", payload.subset.uids),
        *(("weights", run.checkpoint) for run in payload.runs),
        *(("scores", values) for values in answers),
    }


def index(entries: Iterable[Entry]) -> dict[Mark, list[Entry]]:
    """Which entries bear each mark."""
    found: dict[Mark, list[Entry]] = {}
    for entry in entries:
        for mark in marks(entry.payload):
            found.setdefault(mark, []).append(entry)
    return found


def copied(case: Case) -> Notes:
    """No other entry of the board has the same uid file, or a seed of the same weights or the same scores."""
    others: dict[Path, Entry] = {}
    shared: dict[Path, set[str]] = {}
    for what, value in marks(case.payload):
        for other in case.means.marks.get((what, value), ()):
            if other.folder.resolve() != case.entry.folder.resolve():
                others[other.folder] = other
                shared.setdefault(other.folder, set()).add(what)
    for folder in sorted(others):
        other, same = others[folder], ", ".join(sorted(shared[folder], reverse=True))
        who = ", ".join(other.payload.about.authors[:3]) or "nobody named"
        yield warning("entry.json", f"same {same} as {other.payload.scale}/{other.slug} by {who}; ask whose work it is")
