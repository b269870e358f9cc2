"""Pairs whose picture is no near-copy of another, by embeddings (Abbas et al. 2023, SemDeDup).

Rows are clustered; inside a cluster they stand from the farthest to the nearest of its centroid, and each row's
likeness is its largest cosine to a row before it. What lies above 1 - epsilon is a semantic duplicate.

Cost: k-means on 256 rows a cluster, two passes over the embeddings, and N * N * width / (2 * clusters)
multiplications; a copy of the embeddings (float16) in the scratch folder; about 80 bytes a row in memory.
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
    rows, sequence = _by_cluster(pool, ctx, key, places, order)
    borders = np.flatnonzero(np.diff(places["cluster"][order], prepend=-1))
    pieces = list(zip(borders.tolist(), [*borders[1:].tolist(), len(order)], strict=True))
    with one_thread():
        found = ctx.executor.map(
            partial(_largest_before, str(rows), str(sequence)), pieces, name="compare", unit="pairs",
            weights=[last - first for first, last in pieces], threads=True,
        )  # fmt: skip
    like = np.empty(len(order), dtype=np.float32)
    like[order] = np.concatenate(found)
    return like


def _by_cluster(
    pool: Pool, ctx: SelectionContext, key: str, places: npt.NDArray[Any], order: npt.NDArray[np.int64]
) -> tuple[Path, Path]:
    """Paths of the unit rows (n, D) float16, cluster after cluster, and of the rows there (n,) in `order`.

    Inside a cluster they stand as in the pool, so that each grows at its end alone as the pool is read: in their order
    they would be written all over a file that is as large as the embeddings.
    """
    path, sequence = (Path(ctx.scratch) / name for name in ("rows-by-cluster.npy", "sequence.npy"))
    stored = np.argsort(places["cluster"], kind="stable")
    target = np.full(len(pool), -1, dtype=np.int64)
    target[places["row"][stored]] = np.arange(len(stored))
    np.save(sequence, target[places["row"][order]])
    out: np.memmap[Any, np.dtype[np.float16]] | None = None
    done = 0
    with ctx.progress("sort", total=len(pool), unit="rows") as bar:
        for part in pool.features(key):
            if out is None:
                shape = (len(order), part.shape[1])
                out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
            where = target[done : done + len(part)]
            # Ascending, so that what belongs to one cluster is written at once.
            chosen = np.argsort(where)[np.count_nonzero(where < 0) :]
            out[where[chosen]] = unit(part[chosen])
            done += len(part)
            bar.advance(len(part))
    if out is not None:
        out.flush()  # another machine may read it
    return path, sequence


def _largest_before(path: str, sequence: str, piece: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(n,) the largest cosine of each row of `piece` of the sequence to one before it there."""
    rows, places = (np.load(file, mmap_mode="r", allow_pickle=False) for file in (path, sequence))
    places = places[slice(*piece)]
    like = np.full(len(places), -1, dtype=np.float32)

    def block(start: int) -> npt.NDArray[np.float32]:
        return unit(rows[places[start : start + BLOCK]])  # once more: float16 has rounded their lengths

    with one_thread():  # once more, as this may run on another machine
        for start in range(0, len(places), BLOCK):
            part = block(start)
            here = like[start : start + BLOCK]
            for first in range(0, start + 1, BLOCK):
                cosines = part @ block(first).T
                if first == start:
                    cosines[np.triu_indices(len(part))] = -1
                np.maximum(here, cosines.max(axis=1), out=here)
    return np.minimum(like, 1)  # products round, too
