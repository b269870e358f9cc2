"""128-bit sample ids as DataComp defines them.

A uid is 32 lower-case hex characters in metadata and a pair of unsigned 64-bit words, most significant
first, in arrays: dtype "u8,u8", `(int(uid[:16], 16), int(uid[16:], 16))`. Arrays of uids are compared
lexicographically. This module is pure NumPy apart from `load`, `save` and `merge`.

Sorting and searching work on the high word alone, where NumPy is fast, and mend the few places where high
words are equal; the result is exact for any input.
"""

import bisect
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from harness import npy
from harness.errors import ArtifactError, from_os_error
from harness.files import atomic_path

UID_DTYPE = np.dtype("u8,u8")
Uids = npt.NDArray[np.void]
"""Shape (N,), dtype UID_DTYPE."""

BLOCK = 1 << 18
"""Rows worked on at once: their words fit the processor's cache."""
SORT_BLOCK = 1 << 23
"""Rows sorted at once where an array is sorted through files."""
SPARSE = 32
"""Queries this many times fewer than the rows they are looked for in are searched for one by one."""
MERGE_BLOCK = 1 << 19
"""Rows merged at once: they still fit a cache."""


class NotUidError(ArtifactError):
    """A value is not a uid. Raised by a function on a pool's rows, it comes out with the file and the row."""


def from_hex(values: Sequence[str]) -> Uids:
    """Array (N,) of uids from N strings of 32 lower-case hex characters.

    Raises NotUidError naming the first string that is not one.
    """
    joined = "".join(values)
    if joined.isascii() and all(len(value) == 32 for value in values):
        uids, wrong = from_characters(np.frombuffer(joined.encode(), np.uint8))
    else:
        uids, wrong = (
            np.empty(0, UID_DTYPE),
            next(i for i, value in enumerate(values) if len(value) != 32 or not value.isascii()),
        )
    if wrong >= 0:
        raise NotUidError(f"row {wrong}: {values[wrong]!r} is not a uid of 32 lower-case hex characters")
    return uids


def from_characters(characters: npt.NDArray[np.uint8]) -> tuple[Uids, int]:
    """Array (N,) of uids from 32 * N ASCII codes, and the row of the first that is not lower-case hex, or -1."""
    words = np.ascontiguousarray(characters).view("<u8")
    out = np.empty(len(words) // 2, dtype="u8")
    for start in range(0, len(words), 4 << 13):
        part = words[start : start + (4 << 13)]
        codes = part.view(np.uint8)
        if not bool(np.all(((codes - np.uint8(48)) < 10) | ((codes - np.uint8(97)) < 6))):
            bad = ~(((codes - np.uint8(48)) < 10) | ((codes - np.uint8(97)) < 6))
            return np.empty(0, UID_DTYPE), start // 4 + int(np.argmax(bad)) // 32
        # Eight characters a word: each becomes its digit, then digits are packed by pairs, fours and eights.
        digits = (part & _word(0x0F)) + ((part >> np.uint64(6)) & _word(0x01)) * np.uint64(9)
        digits = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
        digits = (digits | (digits >> np.uint64(8))) & np.uint64(0x0000FFFF0000FFFF)
        packed = (digits | (digits >> np.uint64(16))).astype("<u4")
        out[start // 2 : start // 2 + len(part) // 2] = packed.view(">u8")
    return out.view(UID_DTYPE), -1


def _word(byte: int) -> np.uint64:
    return np.uint64(int.from_bytes(bytes([byte] * 8), "little"))


def to_hex(uids: Uids) -> list[str]:
    """The N strings of 32 hex characters of an array (N,) of uids."""
    return [f"{high:016x}{low:016x}" for high, low in zip(uids["f0"].tolist(), uids["f1"].tolist(), strict=True)]


def argsort(uids: Uids) -> npt.NDArray[np.int64]:
    """Stable order (N,) that sorts `uids` lexicographically."""
    bits = np.uint64(max(len(uids) - 1, 0).bit_length())
    # The leading bits of the high word with the row in the trailing bits: one sort of plain words.
    keys = (uids["f0"] >> bits) << bits
    keys |= np.arange(len(uids), dtype=np.uint64)
    keys.sort()
    leading = keys >> bits
    same = leading[1:] == leading[:-1]
    keys &= (np.uint64(1) << bits) - np.uint64(1)
    order = keys.view(np.int64)
    if same.any():
        tied = np.zeros(len(uids), dtype=bool)
        tied[1:] |= same
        tied[:-1] |= same
        rows = order[tied]
        order[tied] = rows[np.lexsort((uids["f1"][rows], uids["f0"][rows]))]
    return order


def sort(uids: Uids) -> Uids:
    """Sorted copy (N,) of `uids`."""
    return uids[argsort(uids)]


def is_sorted(uids: Uids) -> bool:
    """True if `uids` (N,) never decreases (repeats are allowed)."""
    return first_unsorted(uids) < 0


def first_unsorted(uids: Uids) -> int:
    """Row of the first uid that is smaller than the one before it, or -1 where there is none."""
    for start in range(0, len(uids) - 1, BLOCK):
        part = uids[start : start + BLOCK + 1]
        high = np.ascontiguousarray(part["f0"])
        rises = high[1:] > high[:-1]
        if not rises.all():
            rises |= (high[1:] == high[:-1]) & (part["f1"][1:] >= part["f1"][:-1])
            if not rises.all():
                return start + 1 + int(np.argmin(rises))
    return -1


def find(table: Uids, queries: Uids) -> npt.NDArray[np.int64]:
    """Index (M,) into the sorted `table` (N,) of the first element equal to each query (M,), -1 where there is none."""
    if not is_sorted(queries):
        order = argsort(queries)
        found = np.empty(len(queries), dtype=np.int64)
        found[order] = find(table, queries[order])
        return found
    found = np.full(len(queries), -1, dtype=np.int64)
    for start in range(0, len(queries), BLOCK):
        _find_block(table, queries[start : start + BLOCK], found[start : start + BLOCK])
    return found


def _find_block(table: Uids, queries: Uids, found: npt.NDArray[np.int64]) -> None:
    """Fill `found` for one block of sorted `queries`; only the stretch of `table` that can hold them is read."""
    wanted = np.ascontiguousarray(queries["f0"])
    start = bisect.bisect_left(table["f0"], wanted[0])
    stop = bisect.bisect_right(table["f0"], wanted[-1])
    if stop - start > SPARSE * len(wanted):
        left = start + np.searchsorted(table["f0"][start:stop], wanted, side="left")
        hit = np.flatnonzero(table["f0"][np.minimum(left, stop - 1)] == wanted)
        _settle(table, queries, hit, left[hit], found)
        return
    done = 0
    while start < stop and done < len(wanted):
        high = np.ascontiguousarray(table["f0"][start : min(start + BLOCK, stop)])
        last = start + len(high) >= stop
        # Queries up to this block's last high word have their leftmost match here; the others further on.
        upto = len(wanted) if last else int(np.searchsorted(wanted, high[-1], side="right"))
        part = wanted[done:upto]
        left = np.searchsorted(high, part, side="left")
        hit = np.flatnonzero(high[np.minimum(left, len(high) - 1)] == part)
        _settle(table, queries, done + hit, start + left[hit], found)
        done = upto
        start += len(high)


def _settle(
    table: Uids,
    queries: Uids,
    hit: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
    found: npt.NDArray[np.int64],
) -> None:
    """Fill `found` for the queries number `hit`, whose high words stand in `table` from the rows `position` on."""
    low = queries["f1"][hit]
    at = table["f1"][position]
    equal = at == low
    found[hit[equal]] = position[equal]
    later = at < low
    if later.any():
        found[hit[later]] = _find_low(table, queries["f0"][hit[later]], low[later], position[later])


def _find_low(
    table: Uids, high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], first: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Binary search by low word, for queries whose high word stands several times in `table` from row `first` on."""
    left, right = first.copy(), np.full(len(first), len(table), dtype=np.int64)
    while True:
        open_ = left < right
        if not open_.any():
            break
        middle = (left + right) // 2
        at = table[np.minimum(middle, len(table) - 1)]
        less = open_ & ((at["f0"] < high) | ((at["f0"] == high) & (at["f1"] < low)))
        left = np.where(less, middle + 1, left)
        right = np.where(open_ & ~less, middle, right)
    at = table[np.minimum(left, len(table) - 1)]
    return np.where((left < len(table)) & (at["f0"] == high) & (at["f1"] == low), left, -1)


def blocks(uids: Uids) -> Iterator[Uids]:
    """`uids` in stretches of SORT_BLOCK rows, for `sort_to_file`."""
    return (uids[start : start + SORT_BLOCK] for start in range(0, len(uids), SORT_BLOCK))


def merged(runs: Sequence[Uids], *, block: int = MERGE_BLOCK) -> Iterator[Uids]:
    """The sorted multiset union of sorted arrays, in sorted pieces of about `block` rows.

    The arrays may be memory-mapped and together larger than memory: about three times `block` rows are held.
    """
    rests = [run for run in runs if len(run)]
    while rests:
        share = max(block // len(rests), 256)
        heads = [rest[:share] for rest in rests]
        open_ends = [head[-1].item() for head, rest in zip(heads, rests, strict=True) if len(head) < len(rest)]
        if open_ends:
            high, low = min(open_ends)
            heads = [head[: upto(head, high, low)] for head in heads]
        yield sort(np.concatenate(heads)) if len(heads) > 1 else np.asarray(heads[0])
        rests = [rest[len(head) :] for rest, head in zip(rests, heads, strict=True) if len(head) < len(rest)]


def sort_to_file(parts: Iterable[Uids], path: str | os.PathLike[str], *, distinct: bool = False) -> int:
    """Write the sorted multiset union of `parts`, in any order, to `path` as npy; the number of rows.

    With `distinct`, each uid is written once. Parts are sorted SORT_BLOCK rows at a time and wait in a temporary file
    beside `path`, so all together may exceed memory.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".sorting-", dir=Path(path).parent)
    except OSError as error:
        raise from_os_error(error, path) from error
    with folder as name:
        sizes: list[int] = []
        # One file for all runs: each mapped file would hold a descriptor.
        write_pieces(Path(name) / "runs.npy", _sorted_runs(parts, sizes))
        table, ends = load(Path(name) / "runs.npy"), [0, *itertools.accumulate(sizes)]
        runs = [table[start:end] for start, end in itertools.pairwise(ends)]
        return save_pieces(path, _once(merged(runs)) if distinct else merged(runs))


def _sorted_runs(parts: Iterable[Uids], sizes: list[int]) -> Iterator[Uids]:
    """`parts` sorted in runs of about SORT_BLOCK rows, whose sizes go to `sizes`."""
    waiting: list[Uids] = []
    for part in itertools.chain(parts, [None]):
        if part is not None:
            waiting.append(part)
        if waiting and (part is None or sum(map(len, waiting)) >= SORT_BLOCK):
            run = sort(np.concatenate(waiting) if len(waiting) > 1 else waiting[0])
            sizes.append(len(run))
            yield run
            waiting = []


def starts(uids: Uids) -> npt.NDArray[np.int64]:
    """Rows of the sorted `uids` where a new uid begins."""
    new = np.ones(len(uids), dtype=bool)
    new[1:] = (uids["f0"][1:] != uids["f0"][:-1]) | (uids["f1"][1:] != uids["f1"][:-1])
    return np.flatnonzero(new)


def _once(pieces: Iterable[Uids]) -> Iterator[Uids]:
    last = None
    for piece in pieces:
        single = piece[starts(piece)]
        if len(single) and single[0].item() == last:
            single = single[1:]
        if len(single):
            last = single[-1].item()
            yield single


def upto(uids: Uids, high: int, low: int) -> int:
    """How many of the sorted `uids` are at most (high, low)."""
    start = bisect.bisect_left(uids["f0"], high)
    stop = bisect.bisect_right(uids["f0"], high)
    return start + bisect.bisect_right(uids["f1"][start:stop], low)


def digest(uids: Uids) -> str:
    """sha256 (hex) over the little-endian bytes of `uids` in their given order."""
    return digest_pieces([uids])


def digest_pieces(pieces: Iterable[Uids]) -> str:
    """`digest` of the concatenation of `pieces`."""
    state = hashlib.sha256()
    for uids in pieces:
        for start in range(0, len(uids), 1 << 20):
            state.update(np.ascontiguousarray(uids[start : start + (1 << 20)]).tobytes())
    return state.hexdigest()


def save(path: str | os.PathLike[str], uids: Uids) -> None:
    """Write `uids` (N,) to `path` as npy, atomically."""
    save_pieces(path, [uids])


def save_pieces(path: str | os.PathLike[str], pieces: Iterable[Uids]) -> int:
    """Write the concatenation of `pieces` to `path` as npy, atomically and piece by piece; its number of rows."""
    with atomic_path(path) as temporary:
        return _write_pieces(temporary, pieces)


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[Uids]) -> int:
    """Like `save_pieces`, but neither atomic nor synced: for files that only this process needs."""
    try:
        return _write_pieces(path, pieces)
    except OSError as error:
        raise from_os_error(error, path) from error


def _write_pieces(path: str | os.PathLike[str], pieces: Iterable[Uids]) -> int:
    total = 0
    with open(path, "wb") as file:
        _write_header(file, total)
        for piece in pieces:
            total += len(piece)
            for start in range(0, len(piece), 1 << 20):
                part = np.ascontiguousarray(piece[start : start + (1 << 20)].astype(UID_DTYPE, copy=False))
                # Not tofile: its OSError on a full disk does not say why.
                file.write(part.view(np.uint8).data)
        # NumPy pads the header so that a larger first dimension fits in its place.
        file.seek(0)
        _write_header(file, total)
    return total


def _write_header(file: IO[bytes], rows: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(UID_DTYPE), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)


def load(path: str | os.PathLike[str]) -> Uids:
    """Memory-mapped array (N,) of the uids in the npy file `path`; order is not checked.

    Raises ArtifactError if the file is missing, pickled, of another dtype or shape, or not as long as its header says.
    """
    try:
        found = npy.header(path)
    except npy.NotNpyError as error:
        raise ArtifactError(
            f"{error}; `python -m harness.subset convert` makes a uid file of text, csv or parquet"
        ) from error
    if found.descr != np.lib.format.dtype_to_descr(UID_DTYPE) or len(found.shape) != 1:
        raise ArtifactError(
            f"{path}: dtype {str(found.descr)[:60]}, shape {found.shape}, but a uid file is one-dimensional with dtype "
            "u8,u8; `python -m harness.subset convert` makes one of strings of hex"
        )
    return npy.load(path, dtype=UID_DTYPE)
