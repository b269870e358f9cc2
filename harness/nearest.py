"""Embeddings by their inner products: the nearest centroid of each, and pairs that are alike."""

import collections
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from harness import npy, sieve
from harness.files import stamp

Floats = npt.NDArray[Any]

_BLOCK, _CENTROIDS = 512, 8192
"""A product of this size (16 MB) at once: larger ones lie in memory that the system clears afresh each time."""
_MANY = 1 << 28
"""Pairs from which on it pays to look for a bound that leaves most of them out."""
_WHOLE = 64
"""Where more than one pair in so many passes the bound, one product of all costs less."""


def nearest(features: Floats, centroids: Floats) -> npt.NDArray[np.int64]:
    """Row (N,) of `centroids` (K, D) with the largest inner product with each of `features` (N, D).

    Of equal ones the first counts, and for features with NaN the first of all. Products are float32, blocked so that
    memory does not grow with N or K.
    """
    return nearest_and_product(features, centroids)[0]


def nearest_and_product(features: Floats, centroids: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """As `nearest`, with the largest inner products (N,) float32 themselves; NaN for features with NaN."""
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
        best[np.isneginf(best)] = np.nan  # nothing is larger than NaN, and nothing else was
        labels[start : start + len(part)] = label
        products[start : start + len(part)] = best

    # Each product has one thread, and the threads that there are share the blocks.
    with one_thread(), ThreadPoolExecutor(_threads()) as pool:
        collections.deque(pool.map(assign, range(0, len(features), _BLOCK)), maxlen=0)
    return labels, products


def one_thread() -> threadpool_limits:
    """Matrix products in this block use one thread, so that their last bits do not hang on the number of cores.

    A library that shares one product among threads rounds it by their number: near ties would fall differently on
    another machine. Nothing is lost where the pool's files keep all cores busy. The limit holds for the whole process:
    threads that begin and end such blocks at different times need one around all of them.
    """
    return threadpool_limits(1, user_api="blas")


def _threads() -> int:
    """This process's share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def unit(embeddings: Floats) -> npt.NDArray[np.float32]:
    """`embeddings` (N, D) as float32 of length 1; zeros stay zeros, and one with NaN or infinity becomes NaN."""
    rows = np.asarray(embeddings, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    lengths[lengths == 0] = 1
    lengths[np.isinf(lengths)] = np.nan
    scaled: npt.NDArray[np.float32] = rows / lengths[:, None]
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


def load(path: str, ndim: int = 2) -> Floats:
    """The array in the npy file `path`, embeddings (K, D) unless `ndim` says otherwise; memory-mapped.

    It is kept for this process, as long as the file stays what it is.
    """
    return _mapped(path, ndim, stamp(path))


@lru_cache(maxsize=16)
def _mapped(path: str, ndim: int, state: str) -> Floats:
    return npy.load(path, ndim=ndim)
