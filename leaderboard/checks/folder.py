"""The folder itself: what stands in it, and whether each file is what entry.json says."""

from harness import files as harness_files
from harness.errors import ArtifactError
from leaderboard import safe
from leaderboard.case import Case, Notes, error, warning
from leaderboard.entries import is_entry_path, kind_of, misplaced


def files(case: Case) -> Notes:
    """Every file is named in entry.json and every named file is there, or elsewhere; nothing but plain files."""
    if problem := misplaced(case.entry):
        yield error("-", problem)
    there = set(safe.regular_files(case.entry.folder)) - {"entry.json"}
    named = case.entry.record.inputs
    for path in sorted(path for path in named if not is_entry_path(path)):
        yield error("entry.json", f"inputs names {path[:120]!r}, which is not a file that an entry has")
    for path in sorted(set(case.payload.elsewhere) - set(named)):
        yield error("entry.json", f"elsewhere names {path[:120]!r}, which inputs does not")
    expected = {path for path in named if is_entry_path(path)} - set(case.payload.elsewhere)
    for path in sorted(expected - there):
        yield error(path, "is named in entry.json and not in the folder")
    for path in sorted(there - expected):
        yield error(path[:120], "is not named in entry.json; an entry holds nothing else")
    for path in sorted(set(case.payload.elsewhere)):
        if kind_of(path) is not None:
            yield error(path[:120], "is a record, which must stand in the folder")


def digests(case: Case) -> Notes:
    """Each file in the folder has the digest that entry.json states."""
    try:
        there = safe.regular_files(case.entry.folder)
    except ArtifactError:  # a link or a device: `files` names it, and nothing is opened
        return
    for path, stated in sorted(case.entry.record.inputs.items()):
        # Only what was found by walking the folder is opened: a path in entry.json may lead anywhere.
        if path not in there or path in case.payload.elsewhere:
            continue
        try:
            is_record = kind_of(path) is not None
            found = case.entry.read(path).digest if is_record else harness_files.sha256_file(case.entry.folder / path)
        except ArtifactError as problem:
            yield error(path, _without_folder(str(problem), case))
            continue
        if found != stated:
            yield error(path, f"digest {found[:12]}…, entry.json says {stated[:12]}…")


def records(case: Case) -> Notes:
    """Every seed has its records, and the shared ones are there."""
    needed = ["subset.json", "pool/pool.json"]
    for summary in case.payload.runs:
        names = ("config.json", "train/train.json", "train/ledger.json", "eval/evaluation.json")
        needed += [f"seed-{summary.seed}/{name}" for name in names]
    needed += ["uids.npy", *(f"seed-{summary.seed}/train/checkpoint.safetensors" for summary in case.payload.runs)]
    for path in needed:
        if path not in case.entry.record.inputs:
            yield error("entry.json", f"inputs does not name {path}")


def addresses(case: Case) -> Notes:
    """Above tiny the large files can be had from somewhere."""
    elsewhere = case.payload.elsewhere.values()
    if case.payload.scale != "tiny" and elsewhere and not any(there.url for there in elsewhere):
        yield warning(
            "entry.json", "no file that stands elsewhere has an address; `python -m harness.entry publish` uploads them"
        )


def _without_folder(message: str, case: Case) -> str:
    return message.replace(f"{case.entry.folder}/", "")
