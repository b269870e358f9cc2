"""The shards of a pool: which tars a folder holds, and sealing one of them.

The worker's half of `seal`: everything here looks at one tar, or at the names in the folder.
"""

import contextlib
import dataclasses
import os
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from harness import images, uid
from harness.errors import ArtifactError
from harness.files import is_remote, join
from harness.pool import originals
from harness.pool.sealed import digest_array, load_index, save_array
from harness.ranges import AHEAD
from harness.records import Record, read_record, write_record
from harness.tars import Fault, Reader, UidRule, index_tar, key_of

CHECKS = 1
"""Version of what `seal` looks at; a shard sealed under another one is sealed again."""

TWICE = "uid stands in an earlier sample"
NO_TAR = "stats.json without its tar"
LARGE_JSON = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A tar in the pool's folder."""

    name: str
    """Path below shards/ without the extension."""
    size: int
    stamp: str
    """Time of the last change (local) or the store's tag of the content (URL): tells whether to look again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One shard to seal; what crosses to a worker process."""

    shard: Shard
    tar: str
    index: str
    """Path of the index file without its extension."""
    uids: UidRule = "own"
    originals: str | None = None
    """Folder of what `originals.write_runs` wrote, where pictures are compared with the metadata's sha256."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sealed:
    """What `seal_shard` found in one tar."""

    name: str
    samples: int
    size: int
    index: str
    """sha256 of the index array."""
    left_out: list[Fault]
    remarks: list[tuple[str, str]]
    """(key of the sample or empty, remark) of what is odd but usable."""


def list_shards(pool: str) -> tuple[list[Shard], set[str]]:
    """The tars below `<pool>/shards` in name order, and the names (without extension) of all other files there.

    Raises ArtifactError if there is no tar.
    """
    folder = join(pool, "shards")
    files = _remote_files(folder) if is_remote(pool) else _local_files(folder)
    shards = sorted(
        (Shard(name.removesuffix(".tar"), size, stamp) for name, size, stamp in files if name.endswith(".tar")),
        key=lambda shard: shard.name,
    )
    if not shards:
        raise ArtifactError(f"{folder}: holds no .tar; a pool has its tars in shards/ and its metadata in metadata/")
    return shards, {name for name, _, _ in files if not name.endswith(".tar")}


def _local_files(folder: str) -> list[tuple[str, int, str]]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError):  # a temporary file of a writer
                status = os.stat(path)
                found.append((os.path.relpath(path, folder), status.st_size, str(status.st_mtime_ns)))
    return found


def _remote_files(folder: str) -> list[tuple[str, int, str]]:
    system, root = fsspec.core.url_to_fs(folder)
    details: dict[str, dict[str, Any]] = system.find(root, detail=True) if system.exists(root) else {}
    return [(path[len(root) :].lstrip("/"), int(facts["size"]), _stamp(facts)) for path, facts in details.items()]


def _stamp(facts: dict[str, Any]) -> str:
    """What an object store says about the version of a file's content."""
    return next((str(facts[key]) for key in ("ETag", "etag", "mtime", "LastModified", "created") if key in facts), "")


def seal_shard(job: Job) -> Sealed:
    """Index one tar and decode its pictures; writes `<index>.npy`, then `<index>.json`, which marks it done."""
    samples, faults = index_tar(job.tar, uids=job.uids)
    keep = np.ones(len(samples), dtype=bool)
    remarks: list[tuple[str, str]] = []
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
    samples = samples[keep]
    save_array(f"{job.index}.npy", samples)
    done = Sealed(job.shard.name, len(samples), job.shard.size, digest_array(samples), sorted(faults), remarks)
    write_done(job, done)
    return done


def drop_twice(job: Job, done: Sealed, rows: npt.NDArray[np.int64]) -> Sealed:
    """`done` without the samples at `rows` of its index, whose uids stand in earlier samples of the pool."""
    samples = np.asarray(load_index(f"{job.index}.npy"))
    with Reader(job.tar, ahead=AHEAD) as reader:
        names = uid.to_hex(samples["uid"][rows])
        twice = [Fault(key_of(reader, samples[row]), name, TWICE) for row, name in zip(rows, names, strict=True)]
    samples = np.delete(samples, rows)
    save_array(f"{job.index}.npy", samples)
    dropped = dataclasses.replace(
        done, samples=len(samples), index=digest_array(samples), left_out=sorted([*done.left_out, *twice])
    )
    write_done(job, dropped)
    return dropped


def write_done(job: Job, done: Sealed) -> None:
    """Write the record that marks a shard as sealed."""
    payload = {"checks": _checks(job), **dataclasses.asdict(done)}
    write_record(f"{job.index}.json", Record(kind="shard", payload=payload, provenance={"stamp": job.shard.stamp}))


def _checks(job: Job) -> str:
    """What a shard's samples were looked at for."""
    return f"{CHECKS}-{job.uids}" + ("" if job.originals is None else "-sha256")


def read_done(job: Job) -> Sealed | None:
    """What an earlier command found in this shard; None if it has changed since, or has to be looked at again."""
    try:
        record = read_record(f"{job.index}.json", "shard")
        index = load_index(f"{job.index}.npy")
    except ArtifactError:
        return None
    payload = dict(record.payload)
    if payload.pop("checks", None) != _checks(job) or record.provenance.get("stamp") != job.shard.stamp:
        return None
    payload["left_out"] = [Fault(*fault) for fault in payload["left_out"]]
    payload["remarks"] = [(name, remark) for name, remark in payload["remarks"]]
    done = Sealed(**payload)
    # Which of two samples with one uid counts depends on all other shards, so these are looked at afresh.
    twice = any(fault.reason == TWICE for fault in done.left_out)
    return None if twice or done.size != job.shard.size or len(index) != done.samples else done
