"""Embeddings by their inner products: the nearest centroid of each, and pairs that are alike."""

import collections
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from harness import npy, sieve

Floats = npt.NDArray[Any]

_BLOCK, _CENTROIDS = 512, 8192
"""A product of this size (16 MB) at once: larger ones lie in memory that the system clears afresh each time."""
_MANY = 1 << 28
"""Pairs from which on it pays to look for a bound that leaves most of them out."""
_WHOLE = 64
"""Where more than one pair in so many passes the bound, one product of all costs less."""


def nearest(features: Floats, centroids: Floats) -> npt.NDArray[np.int64]:
    """Row (N,) of `centroids` (K, D) with the largest inner product with each of `features` (N, D).

    Of equal ones the first counts. Products are float32, blocked so that memory does not grow with N or K.
    """
    return nearest_and_product(features, centroids)[0]


def nearest_and_product(features: Floats, centroids: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """As `nearest`, with the largest inner products (N,) float32 themselves."""
    centroids = np.asarray(centroids, dtype=np.float32)
    labels = np.empty(len(features), dtype=np.int64)
    products = np.empty(len(features), dtype=np.float32)

    def assign(start: int) -> None:
        part = np.asarray(features[start : start + _BLOCK], dtype=np.float32)
        best = np.full(len(part), -np.inf, dtype=np.float32)
        label = np.zeros(len(part), dtype=np.int64)
        rows = np.arange(len(part))
        for first in range(0, len(centroids), _CENTROIDS):
            here = part @ centroids[first : first + _CENTROIDS].T
            place = here.argmax(axis=1)
            value = here[rows, place]
            better = value > best
            best[better], label[better] = value[better], place[better] + first
        labels[start : start + len(part)] = label
        products[start : start + len(part)] = best

    # A library that shares one product among threads rounds it by their number: near ties would fall differently on
    # another machine. So each product has one thread, and the threads that there are share the blocks.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_threads()) as pool:
        collections.deque(pool.map(assign, range(0, len(features), _BLOCK)), maxlen=0)
    return labels, products


def _threads() -> int:
    """This process's share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def unit(embeddings: Floats) -> npt.NDArray[np.float32]:
    """`embeddings` (N, D) at length one, float32; those of length zero or with NaN become zero, alike to none."""
    rows = np.asarray(embeddings, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    good = np.isfinite(lengths) & (lengths > 0)
    scaled = np.zeros_like(rows)
    np.divide(rows, lengths, out=scaled, where=good)
    return scaled


def alike(
    queries: Floats, table: Floats, *, least: float
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Pairs (P, 2) of rows of `queries` (N, D) and `table` (M, D) with a cosine of at least `least`, and cosines (P,).

    They come block by block of 512 by 8,192 rows, those of one query in the order of the table, so that memory does
    not grow with M nor with how many there are in all, and by at most 1 kB for each of N. Where there is much to
    compare, most pairs are left out by a bound on their cosine (harness.sieve), none that belongs here.
    """
    found = None
    if len(queries) * len(table) >= _MANY:
        found = sieve.Sieve.fit(unit(sieve.sample(queries)), unit(sieve.sample(table)), least=least)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(queries), _BLOCK)]
    bounded = [] if found is None else [found.bounded(unit(queries[rows])) for rows in blocks]
    for first in range(0, len(table), _CENTROIDS):
        others = unit(table[first : first + _CENTROIDS])
        others_bounded = None if found is None else found.bounded(others)
        for number, rows in enumerate(blocks):
            if others_bounded is None:
                pairs, cosines = _whole(unit(queries[rows]), others, least)
            else:
                pairs, cosines = _sifted(queries[rows], others, bounded[number], others_bounded, least)
            if len(pairs):
                yield pairs + np.array([rows.start, first]), cosines


Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Pairs (P, 2) and their cosines (P,)."""


def _whole(some: Floats, others: Floats, least: float) -> Found:
    """The pairs of unit rows with a cosine of at least `least`."""
    cosines = some @ others.T
    pairs = np.argwhere(cosines >= least)
    return pairs, cosines[pairs[:, 0], pairs[:, 1]]


def _sifted(queries: Floats, others: Floats, bounded: Floats, others_bounded: Floats, least: float) -> Found:
    """As `_whole`, of rows `queries` as they are, for the pairs alone whose bound is high enough."""
    bounds = (bounded @ others_bounded.T).ravel()
    passed = np.flatnonzero(bounds >= least - sieve.MARGIN)
    if len(passed) > len(bounds) // _WHOLE:
        return _whole(unit(queries), others, least)
    pairs = np.stack(np.divmod(passed, len(others)), axis=1)
    cosines = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        rows, places = pairs[start : start + _BLOCK].T
        cosines[start : start + _BLOCK] = np.einsum("ij,ij->i", unit(queries[rows]), others[places])
    close = cosines >= least
    return pairs[close], cosines[close]


@cache
def load(path: str, ndim: int = 2) -> Floats:
    """The array in the npy file `path`, embeddings (K, D) unless `ndim` says otherwise; memory-mapped and kept for this
    process."""
    return npy.load(path, ndim=ndim)
