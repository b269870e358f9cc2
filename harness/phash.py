"""Perceptual hashes: 64 bits that stay nearly the same when a picture is scaled, re-encoded or slightly changed.

The hash is the sign of the 64 lowest frequencies (without the constant) of the cosine transform of the grey picture
at 32 x 32 pixels, against their median (pHash, Zauner 2010).
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn

Hashes = npt.NDArray[np.uint64]
"""Shape (N,)."""

DISTANCE = 4
"""Bits in which two hashes of one picture may differ (always an even number: half of the bits of a hash are set)."""
_BANDS = (0, 13, 26, 39, 52, 64)
"""Borders of five bands of bits: where at most four bits differ, one band is equal."""
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


def near_pairs(queries: Hashes, table: Hashes, *, most: int = DISTANCE) -> npt.NDArray[np.int64]:
    """(P, 2) all pairs (row of `queries`, row of `table`) that differ in at most `most` <= 4 bits, sorted."""
    if most > DISTANCE:
        raise ValueError(f"distance {most} is above {DISTANCE}")
    found = [np.empty((0, 2), np.int64)]
    for low, high in itertools.pairwise(_BANDS):
        shift, mask = np.uint64(low), np.uint64((1 << (high - low)) - 1)
        keys = (table >> shift) & mask
        order = np.argsort(keys, kind="stable")
        wanted = (queries >> shift) & mask
        first = np.searchsorted(keys[order], wanted, side="left")
        counts = np.searchsorted(keys[order], wanted, side="right") - first
        for part in _pieces(counts):  # bounded memory where one band is common (flat pictures)
            rows = np.repeat(np.arange(part.start, part.stop), counts[part])
            inside = np.arange(counts[part].sum()) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
            at = order[first[rows] + inside]
            close = distance(queries[rows], table[at]) <= most
            found.append(np.stack([rows[close], at[close]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _pieces(counts: npt.NDArray[np.int64], size: int = 1 << 22) -> Sequence[slice]:
    """Slices of queries with about `size` candidates in all."""
    group = np.cumsum(counts) // size
    borders = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]
    return [slice(first, last) for first, last in itertools.pairwise(borders)]


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
