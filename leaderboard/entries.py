"""Entries as they lie in folders, read as strangers' files."""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

from harness import entry_schema
from harness.errors import ArtifactError
from harness.eval import suite as suites
from harness.files import sha256_file
from harness.records import Record, read_record
from leaderboard import safe

ENTRIES = Path(__file__).parent / "entries"
"""entries/<scale>/<slug>/entry.json"""

_SEED = r"seed-(0|[1-9][0-9]{0,18})"
_FOLDER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
_SLUG = r"[a-z0-9][a-zA-Z0-9_-]{0,99}"
KINDS = {
    r"subset\.json": "subset",
    r"pool/pool\.json": "pool",
    r"pool/(pool|byod-[1-9][0-9]{0,3})/pool\.json": "pool",
    rf"{_SEED}/config\.json": "config",
    rf"{_SEED}/train/train\.json": "train",
    rf"{_SEED}/train/ledger\.json": "ledger",
    rf"{_SEED}/eval/evaluation\.json": "evaluation",
    rf"{_SEED}/eval/{_SLUG}\.json": "task",
}
"""Pattern of a record's path in an entry to its kind; the first that fits holds."""
FILES = (
    r"uids\.npy", r"realised\.npy", r"bootstrap\.npy", r"data-card\.md", r"pool/(uids|shards)\.npy",
    rf"{_SEED}/train/checkpoint\.safetensors", rf"{_SEED}/eval/predictions/{_SLUG}\.parquet",
)  # fmt: skip
"""Patterns of the paths of all other files."""


def kind_of(path: str) -> str | None:
    """Kind of the record that stands at `path` in an entry; None if no record does."""
    return next((kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, path)), None)


def is_entry_path(path: str) -> bool:
    """True for a path that an entry may name in its inputs."""
    return kind_of(path) is not None or any(re.fullmatch(pattern, path) for pattern in FILES)


class Entry(entry_schema.Entry):
    """An entry and the records in its folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """As entry_schema.Entry.load; the folder's name becomes an address, so it is checked as well."""
        safe.require_file(folder / "entry.json")
        entry = super().load(folder)
        if not re.fullmatch(_FOLDER, entry.slug):
            raise ArtifactError(f"{str(folder)[:200]!r}: a folder's name is letters, digits, and . _ - between them")
        return entry

    @property
    def slug(self) -> str:
        """Name of the folder, which is the entry's address on the site."""
        return self.folder.name if self.folder.name != "entry" else self.folder.parent.name

    @cached_property
    def suite(self) -> suites.Suite:
        """The suite that the entry names; ConfigError if there is none of that name."""
        return suites.load(self.payload.suite)

    def file(self, path: str) -> Path:
        """The file at `path` in the folder; ArtifactError unless it is there and the one that entry.json names."""
        place = self.folder / path
        safe.require_file(place)
        if sha256_file(place) != self.record.inputs.get(path):
            raise ArtifactError(f"{path} is not the file that entry.json names")
        return place

    def read(self, path: str) -> Record:
        """The record at `path` in the entry's folder."""
        return read_record(self.folder / path, kind_of(path) or "record")


def misplaced(entry: Entry, root: Path = ENTRIES) -> str:
    """Why `entry`, which lies below `root`, cannot stand there: its address would be another's. Empty if it can."""
    folder, root = entry.folder.resolve(), root.resolve()
    if not folder.is_relative_to(root):
        return ""
    if folder != root / entry.payload.scale / folder.name:
        return f"the folder of this entry is {entry.payload.scale}/{entry.folder.name}"
    twins = sorted(path.name for path in folder.parent.iterdir() if path.name.casefold() == folder.name.casefold())
    return f"folders {' and '.join(twins)} differ in case only" if len(twins) > 1 else ""


def find(root: Path) -> Iterator[Path]:
    """Folders of the entries in `root`, sorted: those that hold an entry.json. What lies below one is not walked."""
    todo = [root]
    while todo:
        folder = todo.pop()
        if os.path.lexists(folder / "entry.json"):
            yield folder
        elif folder.is_dir():
            inner = (Path(child) for child in os.scandir(folder) if child.is_dir(follow_symlinks=False))
            todo += sorted(inner, reverse=True)
