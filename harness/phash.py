"""Perceptual hashes: 64 bits that stay nearly the same when a picture is scaled, re-encoded or slightly changed.

The hash is the sign of the 64 lowest frequencies (without the constant) of the cosine transform of the grey picture
at 32 x 32 pixels, against their median (pHash, Zauner 2010).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn

Hashes = npt.NDArray[np.uint64]
"""Shape (N,)."""

DISTANCE = 4
"""Bits in which two hashes of one picture may differ (always an even number: half of the bits of a hash are set)."""
_BANDS = tuple(
    sum(1 << bit for bit in range(low, high)) for low, high in itertools.pairwise((0, 9, 18, 27, 36, 45, 54, 64))
)
"""Seven bands of bits: where at most four bits differ, three bands are equal."""
_MASKS = tuple(np.uint64(sum(bands)) for bands in itertools.combinations(_BANDS, len(_BANDS) - DISTANCE))
_PAIRS = 1 << 22
"""Pairs held at once: 64 MB."""
_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


def phash(picture: Image.Image) -> int:
    """Hash of a picture, 64 bits."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    low = dctn(grey, norm="ortho")[:9, :9].ravel()[1:65]
    return int(np.packbits(low > np.median(low)).view(">u8")[0])


def distance(a: Hashes, b: Hashes) -> npt.NDArray[np.uint8]:
    """Number of different bits of each pair, (N,)."""
    bits: npt.NDArray[np.uint8] = _ONES[(a ^ b).view(np.uint8).reshape(-1, 8)].sum(axis=1, dtype=np.uint8)
    return bits


def near_pairs(queries: Hashes, table: Hashes) -> npt.NDArray[np.int64]:
    """(P, 2) all pairs (row of `queries`, row of `table`) that differ in at most DISTANCE bits, sorted."""
    pairs = np.concatenate([np.empty((0, 2), np.int64), *near(queries, table)])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def near(queries: Hashes, table: Hashes) -> Iterator[npt.NDArray[np.int64]]:
    """The pairs of `near_pairs` in parts (P, 2), each of them once.

    Two hashes that differ in four bits are equal in three of seven bands, so those are compared that agree in some 27
    bits (Manku, Jain and Das Sarma 2007): the work is that of 35 sorts, and memory some 60 bytes a hash.
    """
    for number, mask in enumerate(_MASKS):
        keys, wanted = table & mask, queries & mask
        order, by_key = np.argsort(keys), np.argsort(wanted)
        keys, wanted = keys[order], wanted[by_key]
        first = np.searchsorted(keys, wanted, side="left")
        counts = np.searchsorted(keys, wanted, side="right") - first
        for part in _pieces(counts):  # bounded memory where a key is common (flat pictures)
            rows = np.repeat(np.arange(part.start, part.stop), counts[part])
            inside = np.arange(len(rows)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
            at, of = order[first[rows] + inside], by_key[rows]
            close = distance(queries[of], table[at]) <= DISTANCE
            of, at = of[close], at[close]
            seen = np.zeros(len(of), dtype=bool)
            for earlier in _MASKS[:number]:
                seen |= (queries[of] ^ table[at]) & earlier == 0
            yield np.stack([of[~seen], at[~seen]], axis=1)


def _pieces(counts: npt.NDArray[np.int64], size: int = 1 << 22) -> Sequence[slice]:
    """Slices of queries with about `size` candidates in all."""
    group = np.cumsum(counts) // size
    borders = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]
    return [slice(first, last) for first, last in itertools.pairwise(borders)]


def connected(parts: Iterable[npt.NDArray[np.int64]], n: int) -> npt.NDArray[np.int64]:
    """`components` of pairs that come in parts (P, 2), as they are or turned round.

    Pairs are folded into what is known before they are too many, so a thousand equal pictures cost little memory.
    """
    rows = np.arange(n)
    waiting = [np.stack([rows, rows], axis=1)]
    for pairs in parts:
        waiting.append(pairs[pairs[:, 0] < pairs[:, 1]])
        if sum(map(len, waiting)) > _PAIRS + n:
            waiting = [np.stack([components(np.concatenate(waiting), n), rows], axis=1)]
    return components(np.concatenate(waiting), n)


def components(pairs: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """(n,) for each of n rows the smallest row that it is connected to by `pairs` (P, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    smallest = np.full(labels.max(initial=-1) + 1, n, dtype=np.int64)
    np.minimum.at(smallest, labels, np.arange(n))
    rows: npt.NDArray[np.int64] = smallest[labels]
    return rows
