"""Pairs whose picture is no near-copy of another, by embeddings (Abbas et al. 2023, SemDeDup).

Rows are clustered; inside a cluster they stand from the farthest to the nearest of its centroid, and each row's
likeness is its largest cosine to a row before it. What lies above 1 - epsilon is a semantic duplicate.

Cost: k-means on 256 rows a cluster, two passes over the embeddings, and N * N * width / (2 * clusters)
multiplications; a copy of the embeddings (float16) in the scratch folder; about 90 bytes a row in memory.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _clusters, _draw
from harness import ConfigError, Pool, SelectionContext
from harness.nearest import one_thread, unit
from harness.uid import Uids

BLOCK = 1024
"""Rows of a cluster that are compared with those before them at once."""


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None,
    epsilon: Annotated[float, Field(ge=0, le=2)] | None = None,
    clusters: _clusters.Clusters = 100,
    key: _clusters.Features = "l14_img",
) -> Uids:
    """Keep the int(fraction * pool) pairs least like another (0.3 if nothing is given), or all but duplicates.

    `epsilon`: keep, whatever their number, the pairs whose largest cosine to an earlier row of their cluster is at most
    1 - epsilon. `clusters`: more make it faster and miss pairs that fall apart; `key`: the embeddings compared.
    """
    if fraction is not None and epsilon is not None:
        raise ConfigError("semdedup: give either method.fraction or method.epsilon, not both")
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key)
    like = likeness(pool, ctx, key, places)
    if epsilon is not None:
        return pool.take(places["row"][like <= np.float32(1 - epsilon)])
    size = _draw.size_of(len(pool), 0.3 if fraction is None else fraction)
    return pool.take(places["row"][_draw.top(-like, size)])


def likeness(pool: Pool, ctx: SelectionContext, key: str, places: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(n,) largest cosine of each of `places` (n,), which _clusters.places gave, to one before it in its cluster.

    -1 for the first. Rows of a cluster count from the farthest to the nearest of its centroid.
    """
    order = np.lexsort((-places["distance"], places["cluster"]))
    rows = _sorted_rows(pool, ctx, key, places["row"][order])
    borders = np.flatnonzero(np.diff(places["cluster"][order], prepend=-1))
    pieces = list(zip(borders.tolist(), [*borders[1:].tolist(), len(order)], strict=True))
    with one_thread():
        found = ctx.executor.map(
            partial(_largest_before, str(rows)), pieces, name="compare", unit="pairs",
            weights=[last - first for first, last in pieces], threads=True,
        )  # fmt: skip
    like = np.empty(len(order), dtype=np.float32)
    like[order] = np.concatenate(found)
    return like


def _sorted_rows(pool: Pool, ctx: SelectionContext, key: str, order: npt.NDArray[np.int64]) -> Path:
    """Path of the unit rows (n, D) float16 of the pool's rows `order` (n,), so that each cluster lies in one piece."""
    path = Path(ctx.scratch) / "sorted-rows.npy"
    target = np.full(len(pool), -1, dtype=np.int64)
    target[order] = np.arange(len(order))
    out: npt.NDArray[np.float16] | None = None
    done = 0
    with ctx.progress("sort", total=len(order), unit="rows") as bar:
        for part in pool.features(key):
            if out is None:
                shape = (len(order), part.shape[1])
                out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            where = target[done : done + len(part)]
            out[where[where >= 0]] = unit(part[where >= 0])
            done += len(part)
            bar.advance(len(part))
    return path


def _largest_before(path: str, piece: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(n,) the largest cosine of each row of `piece` to one before it there."""
    rows = np.load(path, mmap_mode="r", allow_pickle=False)[slice(*piece)]
    like = np.full(len(rows), -1, dtype=np.float32)
    with one_thread():  # once more, as this may run on another machine
        for start in range(0, len(rows), BLOCK):
            part = np.asarray(rows[start : start + BLOCK], dtype=np.float32)
            here = like[start : start + BLOCK]
            for first in range(0, start + 1, BLOCK):
                cosines = part @ np.asarray(rows[first : first + BLOCK], dtype=np.float32).T
                if first == start:
                    cosines[np.triu_indices(len(part))] = -1
                np.maximum(here, cosines.max(axis=1), out=here)
    return like
