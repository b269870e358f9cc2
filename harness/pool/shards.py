"""The shards of a pool: which tars a folder holds, and sealing one of them.

The worker's half of `seal`: everything here looks at one tar, or at the names in the folder.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt

from harness import images, uid
from harness.errors import ArtifactError, from_os_error
from harness.files import answering, is_remote, join
from harness.pool import originals
from harness.pool.sealed import digest_array, load_index, save_array
from harness.ranges import AHEAD
from harness.records import Record, read_json, read_record, write_record
from harness.tars import Fault, Reader, Samples, UidRule, index_tar, key_of

CHECKS = 2
"""Version of what `seal` looks at; a shard sealed under another one is sealed again."""

TWICE = "uid stands in an earlier sample"
NO_TAR = "stats.json without its tar"
FEWER = "fewer samples than its stats.json says"
LOST = (NO_TAR, FEWER)
"""What files beside the tars tell of: no part of the pool's identity, which hangs on the tars alone."""
LARGE_JSON = 1 << 20
_MAX_SHARD = 8 << 30
"""Bytes of the record of one shard, which names each of its samples that is not used."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A tar in the pool's folder."""

    name: str
    """Path below shards/ without the extension."""
    size: int
    stamp: str
    """Time of the last change (local) or the store's tag of the content (URL): tells whether to look again."""
    stats: str = ""
    """The same of the stats.json beside it; empty where there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One shard to seal; what crosses to a worker process."""

    shard: Shard
    tar: str
    index: str
    """Path of the index file without its extension."""
    checks: str
    """What the samples are looked at for; a shard sealed for something else is sealed again."""
    uids: UidRule = "own"
    originals: str | None = None
    """Folder of what `originals.write_runs` wrote, where pictures are compared with the metadata's sha256."""

    @property
    def stats(self) -> str:
        """Path of the stats.json that img2dataset writes beside the tar."""
        return self.tar.removesuffix(".tar") + "_stats.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Sealed:
    """What `seal_shard` found in one tar, in numbers; `findings` reads it by name."""

    name: str
    samples: int
    size: int
    index: str
    """sha256 of the index array."""
    reasons: dict[str, int]
    """How much was left out, by reason."""
    named: int
    """How much of that were samples, not faults of the tar as a whole."""
    remarks: int


class Findings(NamedTuple):
    """What one tar holds that cannot be used, sorted, and what is odd but usable."""

    left_out: list[Fault]
    remarks: list[tuple[str, str]]
    """(key of the sample, remark)."""


def list_shards(pool: str) -> tuple[list[Shard], set[str]]:
    """The tars below `<pool>/shards` in name order, and the names (without extension) of all other files there.

    Raises ArtifactError if there is no tar.
    """
    folder = join(pool, "shards")
    files = _remote_files(folder) if is_remote(pool) else _local_files(folder)
    shards = []
    for name, (size, stamp) in files.items():
        if name.endswith(".tar"):
            stem = name.removesuffix(".tar")
            _, stats = files.get(f"{stem}_stats.json", (0, ""))
            shards.append(Shard(stem, size, stamp, stats))
    if not shards:
        raise ArtifactError(f"{folder}: holds no .tar; a pool has its tars in shards/ and its metadata in metadata/")
    return sorted(shards, key=lambda shard: shard.name), {name for name in files if not name.endswith(".tar")}


def _local_files(folder: str) -> dict[str, tuple[int, str]]:
    """Size and stamp of each file below `folder`, by its path there."""
    found = {}
    try:
        for entry in _entries(folder) if os.path.isdir(folder) else ():
            try:
                status = entry.stat()
            except FileNotFoundError as error:
                if not entry.is_symlink():  # a temporary file of a writer
                    continue
                raise ArtifactError(
                    f"{entry.path}: a link to nothing; attach the disk that it leads to, or remove it"
                ) from error
            found[os.path.relpath(entry.path, folder)] = status.st_size, str(status.st_mtime_ns)
    except OSError as error:
        raise from_os_error(error, error.filename or folder) from error
    return found


def _entries(folder: str, above: tuple[str, ...] = ()) -> Iterator["os.DirEntry[str]"]:
    """The files below `folder`, in linked folders too; a link to a folder that it stands in holds nothing new."""
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield entry
            elif not entry.name.startswith("_"):
                yield from _entries(entry.path, (*above, here))


def _remote_files(folder: str) -> dict[str, tuple[int, str]]:
    with answering(folder):
        system, root = fsspec.core.url_to_fs(folder)
        details: dict[str, dict[str, Any]] = system.find(root, detail=True) if system.exists(root) else {}
    return {path[len(root) :].lstrip("/"): (int(facts["size"]), _stamp(facts)) for path, facts in details.items()}


def _stamp(facts: dict[str, Any]) -> str:
    """What an object store says about the version of a file's content."""
    return next((str(facts[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in facts), "")


def seal_shard(job: Job) -> Sealed:
    """Index one tar and decode its pictures; writes `<index>.npy`, then `<index>.json`, which marks it done."""
    samples, faults = index_tar(job.tar, uids=job.uids)
    told = promised(job)
    if len(samples) + len(faults) < (told or 0):
        faults.append(Fault("", "", FEWER))
    keep = np.ones(len(samples), dtype=bool)
    remarks = [("", "stats.json cannot be read")] if told is None else []
    with Reader(job.tar, ahead=AHEAD) as reader:
        names = uid.to_hex(samples["uid"])
        wanted = None if job.originals is None else originals.expected(job.originals, samples["uid"])
        for row, entry in enumerate(samples):
            content = reader.exactly(int(entry["image"]), int(entry["image_size"]))
            reason = images.fault(content)
            if reason is None and wanted is not None:
                reason = originals.fault(reader, entry, content, wanted[row].tobytes())
            if reason is not None:
                keep[row] = False
                faults.append(Fault(key_of(reader, entry), names[row], reason))
            elif entry["json_size"] > LARGE_JSON:
                remarks.append((key_of(reader, entry), f"json of {entry['json_size']} bytes"))
    return _write_done(job, samples[keep], Findings(sorted(faults), remarks))


def promised(job: Job) -> int | None:
    """How many samples of the shard its stats.json tells of; 0 where there is none, None where it cannot be read."""
    if not job.shard.stats:
        return 0
    try:
        successes = read_json(job.stats)["successes"]
    except (ArtifactError, KeyError, TypeError):
        return None
    return successes if isinstance(successes, int) else None


def drop_twice(job: Job, rows: npt.NDArray[np.int64]) -> Sealed:
    """The sealed shard without the samples at `rows` of its index, whose uids stand in earlier samples of the pool."""
    samples = np.asarray(load_index(f"{job.index}.npy"))
    with Reader(job.tar, ahead=AHEAD) as reader:
        names = uid.to_hex(samples["uid"][rows])
        twice = [Fault(key_of(reader, samples[row]), name, TWICE) for row, name in zip(rows, names, strict=True)]
    before = findings(job)
    return _write_done(job, np.delete(samples, rows), Findings(sorted([*before.left_out, *twice]), before.remarks))


def _write_done(job: Job, samples: Samples, found: Findings) -> Sealed:
    """Write a shard's index and the record that marks it as sealed."""
    # The old record goes first: one that stands always fits the index beside it.
    Path(f"{job.index}.json").unlink(missing_ok=True)
    save_array(f"{job.index}.npy", samples)
    payload = {
        "checks": job.checks, "name": job.shard.name, "samples": len(samples), "size": job.shard.size,
        "index": digest_array(samples), **found._asdict(),
    }  # fmt: skip
    write_record(f"{job.index}.json", Record(kind="shard", payload=payload, provenance=_stamps(job)))
    return _in_numbers(payload, found)


def _stamps(job: Job) -> dict[str, str]:
    return {"stamp": job.shard.stamp, "stats": job.shard.stats}


def read_done(job: Job) -> Sealed | None:
    """What an earlier command found in this shard; None if it has changed since, or has to be looked at again."""
    try:
        record = _read_shard(job)
        index = load_index(f"{job.index}.npy")
    except ArtifactError:
        return None
    if record.payload.get("checks") != job.checks or record.provenance != _stamps(job):
        return None
    done = _in_numbers(record.payload, _findings(record))
    # Which of two samples with one uid counts depends on all other shards, so these are looked at afresh.
    twice = TWICE in done.reasons
    return None if twice or done.size != job.shard.size or len(index) != done.samples else done


def findings(job: Job) -> Findings:
    """What is kept beside the index of a sealed shard; ArtifactError if it is gone."""
    return _findings(_read_shard(job))


def _read_shard(job: Job) -> Record:
    return read_record(f"{job.index}.json", "shard", limit=_MAX_SHARD)


def _findings(record: Record) -> Findings:
    listed = record.payload
    return Findings([Fault(*fault) for fault in listed["left_out"]], [(key, said) for key, said in listed["remarks"]])


def _in_numbers(payload: dict[str, Any], found: Findings) -> Sealed:
    reasons = dict(Counter(fault.reason for fault in found.left_out))
    named = sum(bool(fault.name) for fault in found.left_out)
    return Sealed(
        payload["name"], payload["samples"], payload["size"], payload["index"], reasons, named, len(found.remarks)
    )
