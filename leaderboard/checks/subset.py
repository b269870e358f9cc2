"""The uid file: sorted, of the stated size and digest, and all of it in the pool."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.uid import Uids
from leaderboard import safe
from leaderboard.case import Case, Notes, SkippedError, error

_STEP = 1 << 20
"""Uids, or bytes of a bitmap, worked on at once."""


def uids(case: Case) -> Notes:
    """dtype, order, number, distinct, repeats and digest are those that entry.json states."""
    stated = case.payload.subset
    found = case.uids
    if len(found) == 0:
        yield error("uids.npy", "holds no uid")
        return
    if not uid.is_sorted(found):
        yield error("uids.npy", f"is not sorted: row {uid.first_unsorted(found):,} is smaller than the one before it")
        return
    distinct, most = _multiplicity(found)
    for what, value, true in (
        ("size", stated.size, len(found)),
        ("distinct", stated.distinct, distinct),
        ("max_count", stated.max_count, most),
        ("uids", stated.uids, uid.digest(found)),
    ):
        if value != true:
            yield error("uids.npy", f"{what} is {str(true)[:16]}, entry.json says {str(value)[:16]}")


def membership(case: Case) -> Notes:
    """Every uid is in the sealed pool."""
    if not uid.is_sorted(case.uids) or int(case.counts.sum()) == len(case.uids):
        return
    strangers = _strangers(case.sealed.sorted_uids(), case.uids)
    if len(strangers):
        example = uid.to_hex(strangers[:1])[0]
        yield error("uids.npy", f"{len(strangers):,} uids are not in the sealed pool, the first is {example}")


def sources(case: Case) -> Notes:
    """Of a byod entry: the union holds each source's uids, and the subset all of a folder's, as often as its weight."""
    if not case.sources:
        return
    own = case.means.pool
    for source in case.payload.pool.sources:
        rows, record = case.sources[source.name], case.entry.read(f"pool/{source.name}/pool.json")
        held = uid.digest(case.sealed.uids[rows])
        if held != record.payload.get("uids"):
            yield error("pool/uids.npy", f"source {source.name} does not hold the uids of its record")
        if source.name == "pool":
            if case.payload.scale == "tiny" and own is not None and held != uid.digest(own.uids):
                yield error("pool/pool/pool.json", "is not the generated pool, which at scale tiny is the same for all")
            wrong = int((case.counts[rows] % source.weight != 0).sum())
        else:
            wrong = int((case.counts[rows] != source.weight).sum())
        if wrong:
            yield error("uids.npy", f"{wrong:,} pairs of source {source.name} do not count {source.weight} times")


def realised(case: Case) -> Notes:
    """The bitmap has one bit for each uid of the full pool, and marks exactly the sealed pool's."""
    own = case.sources.get("pool", slice(0, case.payload.pool.samples))
    if case.sources and "pool" not in case.sources:
        return
    if "realised.npy" not in case.entry.record.inputs:
        if case.payload.scale != "tiny":
            yield error("entry.json", "there is no realised.npy; pack the entry with --pool-list")
        return
    bits = safe.load_array(case.locate("realised.npy"), dtype=np.uint8, ndim=1)
    listed = case.payload.pool.listed or 0
    if len(bits) != -(-listed // 8):
        yield error("realised.npy", f"holds {len(bits):,} bytes, {listed:,} uids need {-(-listed // 8):,}")
        return
    marked = sum(int(np.unpackbits(bits[at : at + _STEP]).sum()) for at in range(0, len(bits), _STEP))
    if marked != own.stop - own.start:
        yield error("realised.npy", f"marks {marked:,} uids, the sealed pool holds {own.stop - own.start:,}")
    if case.means.pool_list is None:
        raise SkippedError("the full pool's uid list is not at hand; bring it with --pool-list")
    full = case.means.pool_list
    if len(full) != listed or uid.digest(full) != case.payload.pool.listed_uids:
        yield error("entry.json", "pool.listed_uids is not the digest of the full pool's uid list")
        return
    used = uid.sort(np.asarray(case.sealed.uids[own])[case.counts[own] > 0]) if case.sources else case.uids
    missing = sum(int((~_marked(bits, uid.find(full, part))).sum()) for part in _parts(used))
    if missing:
        yield error("uids.npy", f"{missing:,} uids are not among those that realised.npy marks")


def _marked(bits: npt.NDArray[np.uint8], at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether the bit at each place (M,) is set; False for place -1."""
    set_there = (bits[at >> 3] >> (at & 7).astype(np.uint8)) & 1 == 1
    return np.asarray((at >= 0) & set_there)


def _parts(uids: Uids) -> Iterator[Uids]:
    return (np.asarray(uids[at : at + _STEP]) for at in range(0, len(uids), _STEP))


def _multiplicity(found: Uids) -> tuple[int, int]:
    """Distinct uids of a sorted multiset, and the highest count of one."""
    new = np.ones(len(found), dtype=bool)
    new[1:] = (found["f0"][1:] != found["f0"][:-1]) | (found["f1"][1:] != found["f1"][:-1])
    starts = np.flatnonzero(new)
    return len(starts), int(np.diff(np.append(starts, len(found))).max())


def _strangers(table: Uids, queries: Uids) -> Uids:
    return np.concatenate([part[uid.find(table, part) < 0] for part in _parts(queries)])
