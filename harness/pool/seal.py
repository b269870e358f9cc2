"""Sealing a pool: verify every shard once, and fix which samples the pool holds and in which order.

The result is the same for any number of workers and for any interruption; a shard that has not changed is not
looked at again. What cannot be used is left out by name, with the reason, in left_out.parquet.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.files import is_remote, join, list_files, lock, stamp
from harness.pool import left_out
from harness.pool import shards as pool_shards
from harness.pool.downloaded import downloaded
from harness.pool.left_out import LEFT_OUT, REMARKS
from harness.pool.originals import write_runs
from harness.pool.quarantine import repair
from harness.pool.sealed import SHARD_FIELDS, SealedPool, digest_array, load_index, read_pool_record, save_array
from harness.pool.shards import LOST, NO_TAR, Job, Sealed, Shard
from harness.progress import say
from harness.provenance import provenance
from harness.records import Record, digest_of, read_record, write_record
from harness.tars import UidRule
from harness.uid import Uids

if TYPE_CHECKING:
    from harness.executor import Executor

MANY = 1000
"""Missing shards in a row that are named one by one."""
_SEALING = ".sealing.json"
"""In the folder of sealed files: the rules of a sealing that has begun and not ended."""
_BUCKET = 1 << 25
"""Uids compared at once when looking for repeats: half a gigabyte."""
_CHUNK = 1 << 22
"""Uids looked at in one piece where they are read through: 64 MB."""


def seal(
    path: str,
    *,
    seal_dir: str | None = None,
    executor: "Executor",
    quarantine: bool = False,
    uids: UidRule | None = None,
    sha256: bool | None = None,
) -> SealedPool:
    """Verify the pool in `path` and open it; returns at once if nothing has changed since it was sealed.

    `seal_dir` is where the sealed files go (None: the pool's folder; required for a URL). With `quarantine` every
    shard with unusable samples is rewritten without them and its original moved to `<pool>/quarantine`. `uids` says
    whether samples bring their uids or get them from their content; with `sha256` a sample counts only if its picture
    is the original that the metadata's column sha256 names. None does as the last sealing did, at first `own`, False.
    Raises ArtifactError if there are no shards or nothing readable in them, InfraError if `seal_dir` cannot be
    written, ConfigError if settings do not fit.
    """
    if is_remote(path) and (seal_dir is None or quarantine):
        setting = "--quarantine cannot repair it there" if quarantine else "give pool.seal_dir=DIR, a local folder"
        raise ConfigError(f"pool.path={path} is not a local folder: {setting}")
    where = str(seal_dir or path)
    rules = _rules(where, uids, sha256)
    seen = _look(path, rules)
    if not quarantine and (sealed := _still_sealed(path, where, seen)):
        return sealed
    _require_writable(where)
    with contextlib.ExitStack() as stack:
        # Repairing writes into the pool's own folder as well, where a download may be at work.
        for folder in [path, where] if quarantine and not os.path.samefile(path, where) else [where]:
            stack.enter_context(patient_lock(folder))
        if not quarantine and (sealed := _still_sealed(path, where, seen)):
            return sealed
        runs = None
        if rules.sha256:
            for left in Path(where).glob(".originals-*"):  # by commands that were killed
                shutil.rmtree(left, ignore_errors=True)
            runs = stack.enter_context(tempfile.TemporaryDirectory(prefix=".originals-", dir=where))
            write_runs(path, runs, executor)
        jobs, found = _seal_all(path, where, rules, seen, executor, runs)
        if quarantine and repair(path, jobs, found, seen.strays):
            _seal_all(path, where, rules, _look(path, rules), executor, runs)
    return SealedPool.open(path, seal_dir)


class _Rules(NamedTuple):
    """What decides which samples a sealed pool holds, beside its tars."""

    uids: UidRule
    sha256: bool

    @property
    def payload(self) -> dict[str, bool]:
        """What records say of them: the unusual ones."""
        return {name: True for name, there in (("made_uids", self.uids == "content"), ("sha256", self.sha256)) if there}


def _rules(where: str, uids: UidRule | None, sha256: bool | None) -> _Rules:
    """The rules as asked; where nothing is asked, those by which the pool was sealed before."""
    before: dict[str, Any] = {}
    for name, kind in (("pool.json", "pool"), (_SEALING, "sealing")):  # the latter of a command that was stopped
        with contextlib.suppress(ArtifactError):
            before = read_record(os.path.join(where, name), kind).payload
    return _Rules(
        uids=uids or ("content" if before.get("made_uids") else "own"),
        sha256=bool(before.get("sha256")) if sha256 is None else sha256,
    )


class _Seen(NamedTuple):
    """What a sealing goes by, as far as names and times tell."""

    shards: list[Shard]
    others: set[str]
    """Names of the other files beside the tars."""
    checks: str
    """What samples are looked at for; with sha256, by which metadata."""

    @property
    def digest(self) -> str:
        return digest_of([[dataclasses.astuple(shard) for shard in self.shards], sorted(self.others), self.checks])

    @property
    def strays(self) -> list[str]:
        """The shards of which the stats.json is there and the tar is not."""
        stats = {name.removesuffix("_stats.json") for name in self.others if name.endswith("_stats.json")}
        return sorted(stats - {shard.name for shard in self.shards})


def _look(path: str, rules: _Rules) -> _Seen:
    checks = f"{pool_shards.CHECKS}-{rules.uids}"
    if rules.sha256:
        metadata = list_files(join(path, "metadata"), ".parquet")
        checks += f"-sha256-{digest_of([[os.path.basename(name), stamp(name)] for name in metadata])}"
    return _Seen(*pool_shards.list_shards(path), checks)


def _still_sealed(path: str, where: str, seen: _Seen) -> SealedPool | None:
    try:
        if read_pool_record(where).provenance.get("seen") == seen.digest:
            left_out.require(where)
            return SealedPool.open(path, where)
    except ArtifactError:
        return None
    return None


def _require_writable(where: str) -> None:
    try:
        Path(where).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as error:
        raise InfraError(
            f"{where}: cannot be written ({error.strerror}), so the pool cannot be sealed there; "
            "give pool.seal_dir=DIR, a folder that can"
        ) from error


@contextlib.contextmanager
def patient_lock(folder: str, *, shared: bool = False) -> Iterator[None]:
    """`files.lock` that says so when it has to wait for another command in `folder`."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock(folder, shared=shared))
        except InfraError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            say(f"{folder}: another command works in this folder; waiting for it to end")
            held.enter_context(lock(folder, wait=True, shared=shared))
        yield


def _seal_all(
    path: str, where: str, rules: _Rules, seen: _Seen, executor: "Executor", runs: str | None
) -> tuple[list[Job], list[Sealed]]:
    """Seal every shard that needs it and write the pool's files, pool.json last."""
    started = time.monotonic()
    download = downloaded(path, seen.others, executor)
    write_record(os.path.join(where, _SEALING), Record(kind="sealing", payload=rules.payload))
    # The old record goes first: a pool.json that stands always fits the files beside it.
    Path(where, "pool.json").unlink(missing_ok=True)
    jobs = [
        Job(shard, join(path, "shards", f"{shard.name}.tar"), os.path.join(where, "index", shard.name), seen.checks,
            rules.uids, runs)
        for shard in seen.shards
    ]  # fmt: skip
    for folder in {os.path.dirname(job.index) for job in jobs}:
        os.makedirs(folder, exist_ok=True)
    done = [pool_shards.read_done(job) for job in jobs]
    todo = [job for job, before in zip(jobs, done, strict=True) if before is None]
    fresh = iter(
        executor.map(
            pool_shards.seal_shard, todo, name="seal", unit="MB", weights=[max(job.shard.size >> 20, 1) for job in todo]
        )
    )
    found = [before if before is not None else next(fresh) for before in done]
    if not any(sealed.samples for sealed in found):
        fault = next(_left_out(jobs, found, seen), None)
        why = f"the first fault is {list(fault)}" if fault else "they are empty"
        hint = "; pairs without uids take uids=content" if fault and rules.uids == "own" else ""
        raise ArtifactError(f"{path}/shards: no tar holds a usable sample; {why}{hint}")
    found = _write_uids(where, jobs, found)
    lacking = _lacking(found, download)
    remarks = left_out.write(where, left_out=_left_out(jobs, found, seen), remarks=_remarks(jobs, found, seen, lacking))
    table = _table(found)
    save_array(os.path.join(where, "shards.npy"), table)
    reasons = collections.Counter([NO_TAR] * len(seen.strays))
    for sealed in found:
        reasons.update(sealed.reasons)
    unusable = {reason: count for reason, count in sorted(reasons.items()) if reason not in LOST}
    payload = {
        "samples": sum(sealed.samples for sealed in found),
        "shards": len(found),
        "table": digest_array(table),
        "left_out": {"count": sum(unusable.values()), "reasons": unusable},
        "uids": uid.digest(uid.load(os.path.join(where, "uids.npy"))),
    }
    lost = reasons.total() - sum(unusable.values())
    facts: dict[str, Any] = {"seen": seen.digest, "lost": lost, "remarks": remarks, "download": download}
    record = Record(
        kind="pool", payload=payload | rules.payload, provenance=provenance(seconds=time.monotonic() - started, **facts)
    )
    write_record(os.path.join(where, "pool.json"), record)
    Path(where, _SEALING).unlink()
    _tell(path, where, record, reasons, lacking)
    return jobs, found


def _tell(path: str, where: str, record: Record, reasons: collections.Counter[str], lacking: str | None) -> None:
    payload, remarks = record.payload, record.provenance["remarks"]
    say(f"{path}: {payload['samples']:,} samples in {payload['shards']:,} shards sealed, digest {record.digest[:12]}…")
    if reasons:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        say(f"warning: {reasons.total():,} left out ({counts}); by name in {where}/{LEFT_OUT.file}")
    if lacking:
        say(f"warning: {path}: {lacking}")
    if remarks:
        say(f"{remarks:,} remarks on what is odd but usable in {where}/{REMARKS.file}")


def _table(found: list[Sealed]) -> npt.NDArray[np.void]:
    names = [sealed.name.encode() for sealed in found]
    table = np.zeros(len(found), dtype=[("name", f"S{max(map(len, names))}"), *SHARD_FIELDS])
    for row, sealed in enumerate(found):
        table[row] = (names[row], sealed.samples, sealed.size, sealed.index.encode())
    return table


def _left_out(jobs: list[Job], found: list[Sealed], seen: _Seen) -> Iterator[tuple[str, str, str, str]]:
    """The rows of LEFT_OUT of the whole pool, in shard order; one shard's are in memory."""
    for job, sealed in zip(jobs, found, strict=True):
        if sealed.reasons:
            yield from ((sealed.name, *fault) for fault in pool_shards.findings(job).left_out)
    yield from ((name, "", "", NO_TAR) for name in seen.strays)


def _remarks(jobs: list[Job], found: list[Sealed], seen: _Seen, lacking: str | None) -> Iterator[tuple[str, str, str]]:
    """The rows of REMARKS of the whole pool; one shard's are in memory."""
    for job, sealed in zip(jobs, found, strict=True):
        if sealed.remarks:
            yield from ((sealed.name, key, remark) for key, remark in pool_shards.findings(job).remarks)
    names = {shard.name for shard in seen.shards}
    for suffix in ("_stats.json", ".parquet"):
        beside = {name.removesuffix(suffix) for name in seen.others if name.endswith(suffix)}
        # A pool without any such files was not written by img2dataset, and lacks nothing.
        yield from ((name, "", f"tar without {suffix.lstrip('_.')}") for name in sorted(names - beside) if beside)
    yield from ((name, "", remark) for name, remark in _gaps(names))
    if lacking:
        yield "", "", lacking


def _lacking(found: list[Sealed], download: dict[str, Any] | None) -> str | None:
    """What the pool as a whole lacks of its download, in words."""
    there = sum(sealed.samples + sealed.named for sealed in found)
    if not (download and download["parts"] and there < download["pictures"]):
        return None
    missing = f"{download['pictures'] - there:,} of the {download['pictures']:,} pictures that were downloaded"
    return f"{missing} (download.json) are not in the tars"


def _gaps(names: set[str]) -> list[tuple[str, str]]:
    """The numbers that are missing before the last of a folder's numbered shards, and what to say of each.

    Of many in a row only the first is named: a tar may be called after a date.
    """
    folders: dict[tuple[str, int], list[int]] = collections.defaultdict(list)
    for name in names:
        folder, slash, number = name.rpartition("/")
        if number.isdecimal():
            folders[folder + slash, len(number)].append(int(number))
    gaps = []
    for (folder, width), present in folders.items():
        for before, after in itertools.pairwise([-1, *sorted(present)]):
            missing = range(before + 1, after)
            if len(missing) <= MANY:
                gaps += [(f"{folder}{number:0{width}d}", "gap in the numbering: no such shard") for number in missing]
            else:
                said = f"gap in the numbering: {len(missing):,} shards are missing from here on"
                gaps.append((f"{folder}{missing[0]:0{width}d}", said))
    return sorted(gaps)


def _write_uids(where: str, jobs: list[Job], found: list[Sealed]) -> list[Sealed]:
    """Write uids.npy; of samples with one uid only the first in pool order stays, here and in the shards' indexes."""
    target = os.path.join(where, "uids.npy")
    borders = np.concatenate([[0], np.cumsum([sealed.samples for sealed in found])]).astype(np.int64)
    # Not a mapped file: where the disk is full, writing to one ends the process without a word.
    uid.save_pieces(target, (load_index(f"{job.index}.npy")["uid"] for job in jobs))
    uids = uid.load(target)
    twice = repeats(uids)
    if not len(twice):
        return found
    found = list(found)
    for shard in np.unique(np.searchsorted(borders, twice, side="right") - 1).tolist():
        rows = twice[(twice >= borders[shard]) & (twice < borders[shard + 1])] - borders[shard]
        found[shard] = pool_shards.drop_twice(jobs[shard], rows)
    uid.save_pieces(target, _without(uids, twice))
    return found


def _without(uids: Uids, rows: npt.NDArray[np.int64]) -> Iterator[Uids]:
    """`uids` without those at the ascending `rows`, in pieces."""
    for start in range(0, len(uids), _CHUNK):
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + _CHUNK)] - start
        yield np.delete(np.asarray(uids[start : start + _CHUNK]), here)


def repeats(uids: Uids) -> npt.NDArray[np.int64]:
    """Ascending rows of `uids` (N,) whose uid stands in an earlier row."""
    bits = max(0, (len(uids) // _BUCKET).bit_length())
    found = [np.empty(0, np.int64)]
    for bucket in range(1 << bits):
        high = uids["f0"]
        rows = _rows_in(high, bits, bucket) if bits else np.arange(len(uids))
        order = rows[np.argsort(high[rows], kind="stable")]
        equal = high[order[1:]] == high[order[:-1]]
        if not equal.any():
            continue
        # Equal high words are nearly always equal uids; only these are compared in full.
        suspects = np.sort(order[np.concatenate([[False], equal]) | np.concatenate([equal, [False]])])
        suspects = suspects[uid.argsort(np.asarray(uids[suspects]))]
        same = uids[suspects[1:]] == uids[suspects[:-1]]
        found.append(suspects[1:][same])
    return np.sort(np.concatenate(found))


def _rows_in(high: npt.NDArray[np.uint64], bits: int, bucket: int) -> npt.NDArray[np.int64]:
    """Rows of the words whose leading bits are `bucket`; temporary arrays do not grow with their number."""
    shift = np.uint64(64 - bits)
    starts = range(0, len(high), _CHUNK)
    return np.concatenate([np.flatnonzero((high[s : s + _CHUNK] >> shift) == bucket) + s for s in starts])
