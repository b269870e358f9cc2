"""What a check is given: the entry, its records, and what the maintainer has at hand."""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.config import Scale, validated
from harness.entry_schema import SOURCE_NAME
from harness.errors import ArtifactError, ConfigError
from harness.eval.suite import Task
from harness.files import sha256_file
from harness.order import count
from harness.pool.sealed import SealedPool, digest_array, load_table
from harness.records import Record
from harness.uid import Uids
from leaderboard import safe
from leaderboard.entries import Entry
from leaderboard.findings import Finding, Severity

Mark = tuple[str, Hashable]
"""What of an entry, and a value that no other entry should share (checks.copies)."""


class SkippedError(Exception):
    """A check that cannot be made here; the message says what it needs."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What the maintainer brings to a verification."""

    pool: SealedPool | None = None
    """The sealed pool that the entry names, or that of the scale."""
    pool_list: Uids | None = None
    """Sorted uids of the full pool."""
    files: Path | None = None
    """Folder in which files that stand elsewhere were put, under their paths in the entry."""
    checkpoint: Path | None = None
    """The checkpoint of an entry with one seed (safetensors), to evaluate again."""
    data_dir: Path | None = None
    """Task data for evaluating again."""
    tasks: int | None = None
    """Evaluate this many drawn tasks again; None: all."""
    work: Path | None = None
    """Folder in which to train again; resumable."""
    seed: int | None = None
    """Training seed of the maintainer, for training again."""
    best_known: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Highest value on record, by scale, of an aggregate or task."""
    marks: Mapping[Mark, Sequence[Entry]] = field(default_factory=dict)
    """The entries of the board by what tells them apart."""


@dataclass(frozen=True)
class SeedRun:
    """The records of one training seed of an entry."""

    seed: int
    folder: str
    config: Record
    train: Record
    ledger: Record
    evaluation: Record
    tasks: Mapping[str, Record]
    """By task key."""


class Case:
    """One entry under verification. Properties raise ArtifactError where the entry is at fault."""

    def __init__(self, entry: Entry, means: Means) -> None:
        self.entry, self.means, self.payload = entry, means, entry.payload
        self.evaluated: list[str] = []
        """Keys of the tasks on which the checkpoints were evaluated again."""
        self._right: set[Path] = set()
        """Files brought from elsewhere that are the ones the entry names."""

    @cached_property
    def scale(self) -> Scale:
        """The recipe that the first seed's configuration states."""
        try:
            return validated(Scale, self.runs[0].config.payload.get("scale"), prefix="scale.")
        except ConfigError as error:
            raise ArtifactError(f"{self.runs[0].folder}/config.json: {error}") from error

    @cached_property
    def runs(self) -> list[SeedRun]:
        """One for each seed that entry.json names."""
        return [self._run(summary.seed) for summary in self.payload.runs]

    def _run(self, seed: int) -> SeedRun:
        folder, read = f"seed-{seed}", self.entry.read
        tasks = {
            task.key: read(f"{folder}/eval/{task.slug}.json")
            for task in self.entry.suite.tasks.values()
            if f"{folder}/eval/{task.slug}.json" in self.entry.record.inputs
        }
        return SeedRun(
            seed, folder, read(f"{folder}/config.json"), read(f"{folder}/train/train.json"),
            read(f"{folder}/train/ledger.json"), read(f"{folder}/eval/evaluation.json"), tasks,
        )  # fmt: skip

    @property
    def scored(self) -> list[Task]:
        """Scored tasks that have a result of every seed."""
        return [task for task in self.entry.suite.scored if all(task.key in run.tasks for run in self.runs)]

    @cached_property
    def pool(self) -> Record:
        """The record of the sealed pool."""
        return self.entry.read("pool/pool.json")

    @cached_property
    def sources(self) -> dict[str, slice]:
        """Which rows of the union each source of a byod entry has, by name; empty for any other entry."""
        found: dict[str, slice] = {}
        start = 0
        for source in self.pool.payload.get("sources") or []:
            name, samples = source["name"], source["samples"]
            if not re.fullmatch(SOURCE_NAME, str(name)) or type(samples) is not int or samples < 1:
                raise ArtifactError(f"pool/pool.json: {str(source)[:80]} is not a source of a union")
            found[name] = slice(start, start + samples)
            start += samples
        return found

    @cached_property
    def uids(self) -> Uids:
        """The uid file, memory-mapped; its order is not checked."""
        return safe.load_uids(self.locate("uids.npy"))

    @cached_property
    def sealed(self) -> SealedPool:
        """The sealed pool that the entry names: the maintainer's own, or what was brought of the participant's."""
        wanted, own = self.payload.pool.digest, None if self.sources else self.means.pool
        # The order needs uids and shard borders only; pictures may be packed otherwise by another JPEG library.
        if own is not None and (own.digest == wanted or uid.digest(own.uids) == self.pool.payload.get("uids")):
            return own
        if own is not None and self.payload.scale == "tiny":
            raise ArtifactError("pool/pool.json: is not the generated pool, which at scale tiny is the same for all")
        here = "pool/uids.npy" in self.entry.record.inputs and "pool/uids.npy" not in self.payload.elsewhere
        if self.means.files is None and not here:
            raise SkippedError(
                "the pool's uid list is not at hand; bring the sealed pool with --pool or pool/ with --files"
            )
        for name in ("uids.npy", "shards.npy"):
            safe.check_npy(self.locate(f"pool/{name}"))
        found = SealedPool.open(str(self.locate("pool/uids.npy").parent), record=self.pool)
        if found.digest != wanted:
            raise ArtifactError(f"pool/pool.json: digest {found.digest[:12]}… is not that of the entry's pool")
        table = digest_array(load_table(found.seal_dir))
        for name, digest in (("uids", uid.digest(found.uids)), ("table", table)):
            if self.pool.payload.get(name) != digest:
                raise ArtifactError(f"pool/pool.json: its digest of the {name} is not that of the file of this pool")
        return found

    @cached_property
    def counts(self) -> npt.NDArray[np.int32]:
        """How often (N,) each sample of the sealed pool stands in the subset; half the memory of int64."""
        pool, step = self.sealed.uids, 1 << 20
        found = np.zeros(len(pool), dtype=np.int32)
        for at in range(0, len(pool), step):
            found[at : at + step] = count(self.uids, np.asarray(pool[at : at + step]))
        return found

    def locate(self, path: str) -> Path:
        """Where a file that entry.json names lies here.

        SkippedError if it stands elsewhere and was not brought, or if another file was: that says nothing of the entry.
        """
        if path not in self.payload.elsewhere:
            return self.entry.folder / path
        place = self.means.files and self.means.files / path
        if path.endswith("/checkpoint.safetensors") and len(self.payload.runs) == 1:
            place = self.means.checkpoint or place
        if place is None or not place.is_file():
            url = self.payload.elsewhere[path].url
            raise SkippedError(f"{path} stands elsewhere ({url or 'no address given'}); bring it with --files DIR")
        if place not in self._right and sha256_file(place) != self.entry.record.inputs[path]:
            raise SkippedError(f"{place} has not the sha256 that the entry states of {path}; bring the right one")
        self._right.add(place)
        return place


@dataclass(frozen=True, slots=True)
class Note:
    """A finding before the name of its check is put to it."""

    severity: Severity
    where: str
    what: str

    def named(self, check: str) -> Finding:
        """The finding of the check of that name."""
        return Finding(severity=self.severity, check=check, where=self.where, what=self.what)


Notes = Iterator[Note]


def error(where: str, what: str) -> Note:
    """The entry is invalid."""
    return Note("error", where, what)


def warning(where: str, what: str) -> Note:
    """A person should look."""
    return Note("warning", where, what)
