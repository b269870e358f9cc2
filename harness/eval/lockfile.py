"""tasks.lock.json in a folder of task data: what the download found, and whether the files are still that.

It holds, by task, the revision of the data set on the hub and the size and sha256 of every file that the evaluation
reads. Other files in a task's folder are nobody's concern.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from harness.eval import data, kinds
from harness.eval.suite import Task
from harness.records import Json, StrictModel, fitting, read_record

NAME = "tasks.lock.json"


class _File(StrictModel):
    size: int = Field(ge=0)
    sha256: str


class _Source(StrictModel):
    source: str
    revision: str
    files: dict[str, _File]


class _Lock(StrictModel):
    tasks: dict[str, _Source]


def read(data_dir: Path) -> dict[str, Json]:
    """What the lock file says of each task, by key; nothing without one."""
    place = data_dir / NAME
    if not place.exists():
        return {}
    return fitting(place, read_record(place, "task-data"), _Lock).model_dump()["tasks"]  # type: ignore[no-any-return]


def is_read(task: Task, name: str) -> bool:
    """Whether a file of the task's folder is one that the evaluation reads."""
    folder, _, file = name.rpartition("/")
    if not folder:
        return file in (data.CLASSNAMES, data.TEMPLATES)
    counts = file == "nshards.txt" or (file.endswith(".tar") and file.removesuffix(".tar").isdecimal())
    return counts and folder in {part.folder for part in kinds.parts(task)}


def files(task: Task, known: Mapping[str, Json]) -> dict[str, Json]:
    """Size and sha256 by name, from what the lock file says of a task; earlier ones list whatever lay in the folder."""
    return {name: entry for name, entry in known["files"].items() if is_read(task, name)}


def complaint(folder: Path, wrong: Iterable[str]) -> str | None:
    """A sentence on the files of a task's folder that are not as the lock file says; None if all are."""
    names = sorted(wrong)
    return f"{folder}: not as {NAME} says: {names[0]}, {len(names)} files in all" if names else None
