"""Resharding: the samples of a subset as tars of their own, in pool order.

    python -m harness.reshard pool.path=DIR subset=uids.npy out=DIR [reshard.blur=true]

pool.path is a pool, sealed now if it is not yet, or the folder RUN_DIR/pool of a byod run.
Bytes are copied, nothing is decoded (but pictures with faces, when blurring is asked for). A uid that stands k
times in the subset is written as KEY, KEY-1, … KEY-(k-1). `ledger.npy` says for each distinct uid how often it was
requested, written and missing; `shards.json` is written last. The same command again goes on where it stopped.
"""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness import cli, uid
from harness.config import PoolAt
from harness.errors import ArtifactError, ConfigError, StageError
from harness.executor import Executor, get, local
from harness.files import is_remote, join, require_space
from harness.pool import left_out
from harness.pool.seal import patient_lock, seal
from harness.pool.sealed import SHARD_FIELDS, SealedPool, digest_array, load_array, load_index, load_table, save_array
from harness.pool.union import reopen
from harness.progress import say
from harness.provenance import provenance
from harness.records import Record, StrictModel, read_record, write_record
from harness.shard_writer import Piece, Writing, write_shard
from harness.subset import Subset
from harness.tars import Samples
from harness.uid import UID_DTYPE, Uids

MAX_SAMPLES = 10_000
MAX_BYTES = 3_000_000_000
"""A shard ends with whichever comes first (the reference's limits)."""

LEDGER_DTYPE = np.dtype([("uid", UID_DTYPE), ("requested", "<i8"), ("written", "<i8"), ("missing", "<i8")])

_THREADS = 2
"""Shards that a worker copies side by side: while the disk takes one, another is copied."""
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReshardedPool:
    """Read-only view of resharded tars; reads like a SealedPool."""

    path: str
    """Folder of the index and the records."""
    digest: str
    """Digest of the record shards.json."""
    pool: str
    """Digest of the sealed pool that they were made from."""
    subsets: tuple[str, ...]
    """Digests of the subset that was asked for and, where the pool lacked some of it, of what is here."""
    blur: bool
    """True if faces were blurred."""
    shards: tuple[str, ...]
    """Paths or URLs of the S tars, in pool order."""
    borders: npt.NDArray[np.int64]
    """(S + 1,): shard s holds the samples borders[s] to borders[s + 1]."""
    rows: npt.NDArray[np.int64]
    """(N,) pool row of every written sample, ascending, memory-mapped; one that was written k times stands k times."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """What `reshard` wrote to `path`; ArtifactError if it is missing, unfinished or does not fit together."""
        where = str(path)
        record = read_record(join(where, "shards.json"), "shards")
        table, rows = load_table(where), load_array(join(where, "rows.npy"))
        borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(table["samples"], dtype=np.int64)])
        if rows.dtype != np.int64 or not len(rows) == borders[-1] == record.payload["samples"]:
            raise ArtifactError(
                f"{where}/shards.json: does not fit rows.npy and shards.npy; delete it and reshard again"
            )
        tars = record.provenance.get("tars") or where
        shards = tuple(join(tars, f"{name.decode()}.tar") for name in table["name"].tolist())
        return cls(
            path=where, digest=record.digest, pool=record.inputs["pool"],
            subsets=(record.inputs["subset"], *record.payload.get("found", ())), blur=record.payload["blur"],
            shards=shards, borders=borders, rows=rows,
        )  # fmt: skip

    def require_made_from(self, sealed: SealedPool, subset: Subset) -> None:
        """ConfigError unless these are the samples of `subset` out of `sealed`."""
        wrong = [
            what
            for what, same in (("pool", self.pool == sealed.digest), ("subset", subset.digest in self.subsets))
            if not same
        ]
        if wrong:
            raise ConfigError(
                f"{self.path}: holds the tars of another {' and '.join(wrong)} than the run trains on; reshard this "
                "subset into another folder, or delete this one to read the pool's own tars"
            )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each shard without its extension."""
        return tuple(name.decode() for name in load_table(self.path)["name"].tolist())

    def index(self, shard: int) -> Samples:
        """Memory-mapped (n,) of SAMPLE_DTYPE: the samples of shard number `shard`, copies included."""
        return load_index(join(self.path, "index", f"{self.names[shard]}.npy"))


def reshard(
    sealed: SealedPool,
    subset: Subset,
    *,
    out: str | os.PathLike[str],
    executor: Executor,
    blur: bool = False,
    intersect: bool = False,
    index_dir: str | os.PathLike[str] | None = None,
) -> ReshardedPool:
    """Write the samples of `subset` to tars in `out` (a folder or URL), index and records to `index_dir` or `out`.

    A uid that the sealed pool does not hold is an ArtifactError; with `intersect` it is missing, and reported. With
    `blur` the boxes in a sample's json ("face_bboxes") are blurred and its picture becomes WebP. Raises ConfigError if
    `out` holds another reshard, StageError if the ledger does not add up, InfraError if the disk is full.
    """
    if is_remote(out) and index_dir is None:
        raise ConfigError(f"out={out} is not a local folder: give index_dir=DIR for the index of the tars as well")
    where = str(index_dir or out)
    with patient_lock(where):
        return _reshard(sealed, subset, str(out), where, executor, blur, intersect)


def _reshard(
    sealed: SealedPool, subset: Subset, out: str, where: str, executor: Executor, blur: bool, intersect: bool
) -> ReshardedPool:
    started = time.monotonic()
    inputs = {"pool": sealed.digest, "subset": subset.digest}
    settings = {"blur": blur, "max_samples": MAX_SAMPLES, "max_bytes": MAX_BYTES}
    plan = Record(kind="reshard_plan", inputs=inputs, payload=settings)
    finished = _earlier(where, plan)
    if finished is not None:
        return finished
    rows, counts, missing = locate(sealed, subset)
    _require_known(sealed, missing, subset, int(counts.sum()), intersect)
    if not len(rows):
        raise StageError(f"{subset.name}: the pool holds none of its uids, there is nothing to write")
    jobs = list(_plan(sealed, rows, counts, out, where, blur))
    if not is_remote(out):
        require_space(out, sum(job.size for job in jobs if not os.path.exists(job.tar)))
    os.makedirs(join(where, "index"), exist_ok=True)
    save_array(join(where, "rows.npy"), np.repeat(rows, counts))
    write_record(join(where, "plan.json"), plan)
    # Copying waits for the disk and needs no processes of its own; blurring computes. What goes to a store lies in a
    # temporary file first, so there are no more at a time than workers.
    threads = 0 if blur else 1 if is_remote(out) else _THREADS
    weights = [job.samples for job in jobs]
    written = executor.map(write_shard, jobs, name="reshard", unit="samples", weights=weights, threads=threads)
    table = np.zeros(len(jobs), dtype=[("name", f"S{len(jobs[0].name)}"), *SHARD_FIELDS])
    for row, (job, (size, index)) in enumerate(zip(jobs, written, strict=True)):
        table[row] = (job.name.encode(), job.samples, size, index.encode())
    save_array(join(where, "shards.npy"), table)
    ledger = _ledger(subset, missing, jobs)
    save_array(join(where, "ledger.npy"), ledger)
    payload = settings | {
        "requested": len(subset), "samples": int(ledger["written"].sum()), "distinct": len(rows),
        "missing": int(ledger["missing"].sum()), "shards": len(jobs), "table": digest_array(table),
        "ledger": digest_array(ledger),
    }  # fmt: skip
    if len(missing):
        payload["found"] = [uid.digest(subset.uids[uid.find(missing, subset.uids) < 0])]
    facts: dict[str, Any] = {"tars": out} if out != where else {}
    record = Record(kind="shards", inputs=inputs, payload=payload,
                    provenance=provenance(seconds=time.monotonic() - started, **facts))  # fmt: skip
    write_record(join(where, "shards.json"), record)
    return ReshardedPool.open(where)


def _earlier(where: str, plan: Record) -> ReshardedPool | None:
    """What an earlier run of the same command finished; ConfigError if `where` holds something else."""
    if not os.path.exists(join(where, "plan.json")):
        return None
    before = read_record(join(where, "plan.json"), "reshard_plan")
    if before.digest != plan.digest:
        names = {"pool": "pool.path", "subset": "subset", "blur": "reshard.blur"}
        different = [
            setting
            for key, setting in names.items()
            if (before.inputs | before.payload).get(key) != (plan.inputs | plan.payload).get(key)
        ]
        raise ConfigError(
            f"out={where} holds the tars of another {' and '.join(different) or 'version'}; choose another folder"
        )
    try:
        finished = ReshardedPool.open(where)
    except ArtifactError:
        return None
    sizes = load_table(where)["bytes"].tolist()
    local = not is_remote(finished.shards[0])
    whole = (
        all(os.path.exists(p) and os.path.getsize(p) == n for p, n in zip(finished.shards, sizes, strict=True))
        if local
        else True
    )
    return finished if whole else None


def locate(sealed: SealedPool, subset: Subset) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Uids]:
    """Pool rows (D,) of the samples of `subset`, ascending; how often each is wanted (D,); uids not there (M,)."""
    distinct, counts = subset.unique, subset.counts
    there = np.zeros(len(distinct), dtype=bool)
    rows, wanted = [], []
    for start in range(0, len(sealed), _CHUNK):
        place = uid.find(distinct, np.asarray(sealed.uids[start : start + _CHUNK]))
        row = np.flatnonzero(place >= 0)
        there[place[row]] = True
        rows.append(row + start)
        wanted.append(counts[place[row]])
    return np.concatenate(rows), np.concatenate(wanted), distinct[~there]


def _require_known(sealed: SealedPool, missing: Uids, subset: Subset, kept: int, intersect: bool) -> None:
    if not len(missing):
        return
    known = np.zeros(len(missing), dtype=bool)
    for uids, _ in left_out.uids_and_reasons(sealed.seal_dir):
        place = uid.find(missing, uids)
        known[place[place >= 0]] = True
    said = (
        f"{len(missing):,} of its {subset.distinct:,} distinct uids are not in the sealed pool {sealed.path} "
        f"({known.sum():,} left out by the seal, {(~known).sum():,} never there)"
    )
    if not intersect:
        raise ArtifactError(
            f"{subset.name}: {said}, the first is {uid.to_hex(missing[:1])[0]}; "
            "with reshard.intersect=true they are left out and counted as missing"
        )
    say(f"warning: {subset.name}: {said}; {len(subset) - kept:,} of {len(subset):,} samples are lost")


def _plan(
    sealed: SealedPool, rows: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], out: str, where: str, blur: bool
) -> Iterator[Writing]:
    """The output shards, each filled up to the limits with samples in pool order, copies one by one."""
    pieces: list[Piece] = []
    samples = size = number = written = 0

    def shard() -> Writing:
        name = f"{number:08d}"
        return Writing(name=name, tar=join(out, f"{name}.tar"), index=join(where, "index", f"{name}.npy"),
                       rows=join(where, "rows.npy"), pieces=tuple(pieces), size=size, blur=blur)  # fmt: skip

    cuts = np.searchsorted(rows, sealed.borders)
    for s, (first, last) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)):
        if first == last:
            continue
        border = int(sealed.borders[s])
        index = sealed.index(s)
        sizes = (index["end"] - index["start"])[rows[first:last] - border]
        reached = np.concatenate([[0], np.cumsum(np.repeat(sizes, counts[first:last]))])
        index_path = sealed.index_path(s)
        at, end_of_tar = 0, len(reached) - 1
        while at < end_of_tar:
            fits = int(np.searchsorted(reached, reached[at] + MAX_BYTES - size, side="right")) - 1
            end = min(fits, at + MAX_SAMPLES - samples, end_of_tar)
            if end <= at and samples:
                yield shard()
                pieces, samples, size, number = [], 0, 0, number + 1
                continue
            end = max(end, at + 1)  # a sample above the limit has a shard of its own
            pieces.append(Piece(sealed.shards[s], index_path, border, written, written + end - at))
            samples, size = samples + end - at, size + int(reached[end] - reached[at])
            written, at = written + end - at, end
    if samples:
        yield shard()


def _ledger(subset: Subset, missing: Uids, jobs: list[Writing]) -> npt.NDArray[np.void]:
    """(distinct,) of LEDGER_DTYPE, counted in the indexes that were written; StageError unless it adds up."""
    ledger = np.zeros(len(subset.unique), dtype=LEDGER_DTYPE)
    ledger["uid"], ledger["requested"] = subset.unique, subset.counts
    absent = uid.find(ledger["uid"], missing)
    ledger["missing"][absent] = ledger["requested"][absent]
    strangers = 0
    for job in jobs:
        place, times = np.unique(uid.find(ledger["uid"], np.asarray(load_index(job.index)["uid"])), return_counts=True)
        strangers += int(times[place < 0].sum())
        ledger["written"][place[place >= 0]] += times[place >= 0]
    wrong = np.flatnonzero(ledger["requested"] != ledger["written"] + ledger["missing"])
    if len(wrong) or strangers:
        first = uid.to_hex(ledger["uid"][wrong[:1]])
        raise StageError(
            f"reshard: the ledger does not add up for {len(wrong):,} uids (first {first}) and {strangers:,} samples "
            "were not asked for; delete the output folder and run the command again"
        )
    return ledger


class ReshardSettings(StrictModel):
    """How samples are written."""

    blur: bool = False
    """Blur the face boxes of the samples' json."""
    intersect: bool = False
    """Leave out uids that the pool does not have, instead of refusing them."""


class Settings(StrictModel):
    """Write the samples of a subset to tars of their own."""

    pool: PoolAt
    subset: str
    out: str
    index_dir: str | None = None
    """Local folder of the index when `out` is a URL."""
    reshard: ReshardSettings = ReshardSettings()
    executor: Literal["local", "ray"] = "local"
    workers: int | None = Field(default=None, ge=1)


def command(argv: list[str]) -> None:
    """`python -m harness.reshard`: see the module."""
    chosen = cli.settings(argv, Settings)
    subset = Subset.load(chosen.subset)
    executor = local(chosen.workers) if chosen.executor == "local" else get(chosen.executor)
    sealed = reopen(chosen.pool.path, chosen.pool.seal_dir)
    if sealed is None:
        sealed = seal(chosen.pool.path, seal_dir=chosen.pool.seal_dir, executor=executor)
    done = reshard(sealed, subset, out=chosen.out, executor=executor, blur=chosen.reshard.blur,
                   intersect=chosen.reshard.intersect, index_dir=chosen.index_dir)  # fmt: skip
    result = f"{len(done.rows):,} samples in {len(done.shards):,} shards in {chosen.out}, digest {done.digest}"
    sys.stdout.write(result + "\n")


if __name__ == "__main__":
    cli.main(command)
