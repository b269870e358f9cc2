"""What maintainers found, kept apart from the entries so that no entry can state its own level.

verified/<scale>/<slug>.json is a record of kind "verification"; it names the entry by digest and says nothing about
another version of it.
"""

from pathlib import Path

from pydantic import ValidationError

from harness.errors import ArtifactError
from harness.provenance import provenance
from harness.records import Record, read_record, write_record
from leaderboard.entries import Entry
from leaderboard.findings import LEVELS, Verification

VERIFIED = Path(__file__).parent / "verified"


def place(entry: Entry, root: Path) -> Path:
    """Where the verification of `entry` is kept."""
    return root / entry.payload.scale / f"{entry.slug}.json"


def remember(result: Verification, folder: Path, root: Path = VERIFIED) -> None:
    """Keep `result`; of the same entry, one that says less never replaces one that says more.

    An entry that was found invalid at a level stays so until it passes that level.
    """
    entry = Entry.load(folder)
    old = recall(entry, root)
    if result.outcome != "invalid" and old is not None and _height(old) > _height(result):
        return
    payload = result.model_dump(exclude={"entry", "seconds"})
    record = Record(
        kind="verification", inputs={"entry": entry.record.digest}, payload=payload, provenance=provenance()
    )
    write_record(place(entry, root), record)


def _height(result: Verification) -> int:
    level = result.level if result.outcome == "invalid" else result.reached
    return -1 if level is None else LEVELS.index(level)


def recall(entry: Entry, root: Path = VERIFIED) -> Verification | None:
    """The verification of exactly this entry; None if there is none."""
    path = place(entry, root)
    if not path.exists():
        return None
    record = read_record(path, "verification")
    if record.inputs.get("entry") != entry.record.digest:
        return None
    try:
        return Verification.model_validate({**record.payload, "entry": entry.folder.as_posix(), "seconds": 0.0})
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: not a verification; run `python -m leaderboard verify … --write` again"
        ) from error
