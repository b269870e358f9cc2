"""Pairs of a pool that look alike by their stored embeddings, whatever the pool's size.

Embeddings are compared within clusters (k-means on a sample, as SemDeDup does: Abbas et al. 2023), so that the work
grows with the pool and not with its square, and memory with the largest cluster. A pool of up to 65,536 pairs is one
cluster and the answer exact; in a larger one, pairs on two sides of a border between clusters are missed.
"""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness import centroids, nearest, uid
from harness.files import require_space
from harness.phash import connected
from harness.pool.view import CHUNK, Pool
from harness.uid import Uids

EXACT_ROWS = 1 << 16
"""Pools up to this size are not cut into clusters."""
CLUSTER_ROWS = 4096
"""Pairs of a cluster, on average."""
_TRAINING_ROWS = 64
"""Pairs of the sample that places the centroids, for each cluster."""


def links(pool: Pool, key: str, *, least: float, scratch: str | os.PathLike[str]) -> tuple[Uids, Uids]:
    """Two arrays of uids (L,), one pair a row, that connect all that are alike by steps of cosine >= `least`.

    `key` names the embeddings (l14_img); each uid is connected to the first of its kind at most once, so L is smaller
    than the pool. `scratch` holds a copy of the embeddings, sorted by cluster, while this runs. Raises ArtifactError
    if an npz file or the array is missing, InfraError if the disk is too small.
    """
    with tempfile.TemporaryDirectory(prefix=".similar-", dir=scratch) as folder:
        clusters = 1 if len(pool) <= EXACT_ROWS else -(-len(pool) // CLUSTER_ROWS)
        require_space(folder, _bytes(pool, key))
        middles = _centroids(pool, key, clusters, folder)
        work = partial(_sort_by_cluster, key, middles, clusters, folder)
        pieces = pool.map(work, columns=["uid"], features=[key], rows=CHUNK, name="clusters")
        ends = np.stack([ends for _, ends in pieces])
        with nearest.one_thread():
            found = pool.executor.map(
                partial(_linked, [stem for stem, _ in pieces], ends, least), list(range(clusters)), name="compare",
                unit="clusters", threads=True,
            )  # fmt: skip
    firsts, others = ([pair[side] for pair in found] for side in (0, 1))
    return np.concatenate(firsts), np.concatenate(others)


def _bytes(pool: Pool, key: str) -> int:
    width = int(next(pool.features(key)).shape[1])
    return len(pool) * (2 * width + uid.UID_DTYPE.itemsize)


def _centroids(pool: Pool, key: str, clusters: int, folder: str) -> str | None:
    if clusters == 1:
        return None
    sample = min(1.0, clusters * _TRAINING_ROWS / len(pool))
    path = str(Path(folder) / "centroids.npy")
    centroids.save(path, centroids.of_pool(pool, captions="all", key=key, clusters=clusters, sample=sample))
    return path


def _sort_by_cluster(
    key: str, middles: str | None, clusters: int, folder: str, table: pa.Table, features: dict[str, Any]
) -> tuple[str, npt.NDArray[np.int64]]:
    """Write a stretch's uids and embeddings, cluster by cluster; the files' stem and where each cluster ends (K,)."""
    uids, rows = uid.from_hex(table["uid"].to_pylist()), features[key]
    labels = np.zeros(len(rows), np.int64) if middles is None else nearest.nearest(rows, nearest.load(middles))
    order = np.argsort(labels, kind="stable")
    handle, stem = tempfile.mkstemp(dir=folder)
    os.close(handle)
    np.save(f"{stem}.uids.npy", uids[order])
    np.save(f"{stem}.rows.npy", np.asarray(rows[order], dtype=np.float16))
    return stem, np.cumsum(np.bincount(labels, minlength=clusters))


def _linked(stems: list[str], ends: npt.NDArray[np.int64], least: float, cluster: int) -> tuple[Uids, Uids]:
    """What is alike in a cluster: uids (L,) and, for each, the first of its kind."""
    parts_uids, parts_rows = [], []
    for stem, end in zip(stems, ends, strict=True):
        here = slice(int(end[cluster - 1]) if cluster else 0, int(end[cluster]))
        if here.start < here.stop:
            parts_uids.append(np.asarray(np.load(f"{stem}.uids.npy", mmap_mode="r")[here]))
            parts_rows.append(np.asarray(np.load(f"{stem}.rows.npy", mmap_mode="r")[here]))
    if not parts_uids:
        return uid.from_hex([]), uid.from_hex([])
    uids, rows = np.concatenate(parts_uids), np.concatenate(parts_rows)
    first = connected((pairs for pairs, _ in nearest.alike(rows, rows, least=least)), len(rows))
    joined = np.flatnonzero(first != np.arange(len(first)))
    return uids[first[joined]], uids[joined]
