"""Which centroid lies nearest to each embedding, by the largest inner product."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]

_ROWS, _CENTROIDS = 2048, 8192
"""A product of this size (64 MB) at once."""


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
    for start in range(0, len(features), _ROWS):
        part = np.asarray(features[start : start + _ROWS], dtype=np.float32)
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
    return labels, products


@cache
def load(path: str) -> Floats:
    """The centroids (K, D) float32 in the npy file `path`, memory-mapped and kept for this process."""
    found: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return found
