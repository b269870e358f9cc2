"""The pool's embeddings in clusters: spherical k-means on a part of the rows, then every row's nearest centroid."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _draw, _scores
from harness import ArtifactError, ConfigError, Pool, SelectionContext, centroids
from harness.nearest import load, nearest, unit

Features = Annotated[str, Field(min_length=1)]
"""An array of the npz files: b32_img, b32_txt, l14_img, l14_txt, or what harness.score or another tool added."""
Clusters = Annotated[int, Field(gt=0)]
Keep = Literal["random", "score"]
"""Of a cluster pairs at random, or the best by a score."""

ROWS_A_CLUSTER = 256
"""Rows that k-means sees for each centroid; faiss finds that more change nothing."""
ROWS = 1 << 15
"""Rows worked on at once."""
PLACE = np.dtype([("row", np.int64), ("cluster", np.int32), ("distance", np.float32), ("score", np.float32)])
"""Where a pair stands: its row in the pool, its cluster, 1 - its cosine to the centroid, its score if one was asked."""

Array = npt.NDArray[Any]


def centroids_of(pool: Pool, ctx: SelectionContext, *, key: str, clusters: int) -> str:
    """Path of an npy file with `clusters` unit centroids (clusters, D) of the pool's embeddings `key`.

    L2 k-means (k-means++, 20 iterations) of the directions of a random part of 256 rows a cluster; the draw and the
    start come from ctx.rng. Memory: 1 KB times D for each cluster. Raises ConfigError where the pool has fewer pairs
    than clusters.
    """
    if clusters > len(pool):
        raise ConfigError(f"setting method.clusters: {clusters} are too many for a pool of {len(pool)} pairs")
    seed = int(ctx.rng.integers(1 << 31))
    path = Path(ctx.scratch) / f"centroids-{quote(key, safe='')}-{clusters}-{seed}.npy"
    if not path.exists():
        share = min(1.0, ROWS_A_CLUSTER * clusters / len(pool))
        found = centroids.of_pool(
            pool, captions="all", key=key, clusters=clusters, sample=share, seed=seed, start="spread", directions=True
        )
        centroids.save(str(path), unit(found))
    return str(path)


def places(pool: Pool, ctx: SelectionContext, path: str, *, key: str, score: str | None = None) -> Array:
    """(n,) of dtype PLACE, rows ascending: the place of each pair that has an embedding and, if asked for, a score.

    `path`: what `centroids_of` gave; `score`: a metadata column of numbers to take along. Pairs whose embedding is
    zeros or not finite, or whose score is null or NaN, take no part; a remark says how many. Raises ArtifactError where
    that leaves none.
    """
    work = partial(_places, path, key, score)
    columns = [] if score is None else [score]
    parts = pool.map(work, columns=columns, features=[key], rows=ROWS, name="clusters")
    found = np.concatenate([np.empty(0, PLACE), *parts])
    found["row"] = np.arange(len(found))
    there = ~np.isnan(found["distance"])
    if score is not None:
        there &= ~np.isnan(found["score"])
    if there.all():
        return found
    what = key if score is None else f"{key} or no {score}"
    if not there.any():
        raise ArtifactError(f"{pool.path}: all pairs have no {what}")
    ctx.remark(f"{len(found) - np.count_nonzero(there)} of {len(found)} pairs have no {what} and take no part")
    chosen: Array = found[there]
    return chosen


def _places(path: str, key: str, score: str | None, table: Any, features: dict[str, Array]) -> Array:
    rows, points = unit(features[key]), load(path)
    found = np.empty(len(rows), PLACE)
    found["cluster"] = nearest(rows, points)
    found["distance"] = 1 - np.einsum("nd,nd->n", rows, points[found["cluster"]])
    found["distance"][~rows.any(axis=1)] = np.nan  # zeros are no embedding
    found["score"] = np.nan if score is None else _scores.numbers(score, table)
    return found


def sizes(found: Array, clusters: int) -> npt.NDArray[np.int64]:
    """(clusters,) pairs of each cluster among `found` (n,), which `places` gave."""
    return np.bincount(found["cluster"], minlength=clusters)


def taken(found: Array, quotas: npt.NDArray[np.int64], keep: Keep, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Ascending places in `found` (n,), which `places` gave: quotas[k] of each cluster k, or all if it has fewer."""
    keys = found["score"] if keep == "score" else rng.random(len(found), dtype=np.float32)
    return _draw.top_of_groups(keys, found["cluster"], quotas)


def probes(found: Array, most: int, clusters: int, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
    """For each cluster at most `most` of its places in `found`, drawn at random and in an order by chance."""
    chosen = rng.permutation(taken(found, np.full(clusters, most), "random", rng))
    labels = found["cluster"][chosen]
    order = np.argsort(labels, kind="stable")
    return np.split(chosen[order], np.cumsum(np.bincount(labels, minlength=clusters))[:-1])
