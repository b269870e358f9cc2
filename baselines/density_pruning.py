"""Clusters give as many pairs as their complexity deserves (Abbas et al. 2024, Effective pruning of web-scale datasets
based on complexity of concept clusters).

A cluster's complexity is d_inter * d_intra: the mean cosine distance of its centroid to its nearest other centroids,
times the mean distance of its members to it. A softmax over complexities gives each cluster's share; a quadratic
programme makes shares into numbers that no cluster exceeds. The paper removes near-duplicates and low CLIP scores
first (methods semdedup and clip_score, joined by method=intersect), and then keeps the hard pairs of each cluster.

Cost: as prototypes: k-means on 256 rows a cluster, one pass over the embeddings, about 60 bytes a row in memory.
"""

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _clusters, _draw
from harness import Pool, SelectionContext
from harness.nearest import load, one_thread
from harness.uid import Uids

Floats = npt.NDArray[np.floating[Any]]


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    clusters: _clusters.Clusters = 100,
    temperature: Annotated[float, Field(gt=0)] = 0.1,
    neighbours: Annotated[int, Field(gt=0)] = 20,
    keep: Literal["hard", "easy", "score"] = "hard",
    key: _clusters.Features = "l14_img",
    score: str = "clip_l14_similarity_score",
) -> Uids:
    """Keep int(fraction * pool) pairs, more of the complex clusters, fewer of the dense and simple ones.

    `clusters`: 100 is the paper's choice at scale medium; `temperature` of the softmax: small prefers complex clusters
    more; `neighbours`: centroids that d_inter looks at; `keep`: of each cluster the farthest from the centroid (hard),
    the nearest (easy), or the best by the metadata column `score`; `key`: the embeddings that are clustered.
    """
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key, score=score if keep == "score" else None)
    sizes = _clusters.sizes(places, clusters)
    shares = softmax(complexity(load(path), places["cluster"], places["distance"], neighbours), temperature)
    wanted = _draw.quotas(shares, sizes, _draw.size_of(len(pool), fraction))
    keys = {"hard": places["distance"], "easy": -places["distance"], "score": places["score"]}[keep]
    return pool.take(places["row"][_draw.top_of_groups(keys, places["cluster"], wanted)])


def complexity(
    points: Floats, cluster: npt.NDArray[np.integer[Any]], distance: Floats, neighbours: int
) -> npt.NDArray[np.float64]:
    """(K,) d_inter * d_intra of the clusters with unit centroids `points` (K, D).

    `cluster`, `distance` (N,): each row's cluster and distance to its centroid. A cluster without rows, or the only
    one, has complexity 0.
    """
    with one_thread():
        between = 1 - np.asarray(points, dtype=np.float64) @ np.asarray(points, dtype=np.float64).T
    np.fill_diagonal(between, np.inf)
    near = np.sort(between, axis=1)[:, : min(neighbours, len(points) - 1)]
    inter = near.mean(axis=1) if near.shape[1] else np.zeros(len(points))
    sizes = np.bincount(cluster, minlength=len(points))
    intra = np.bincount(cluster, weights=distance, minlength=len(points)) / np.maximum(sizes, 1)
    product: npt.NDArray[np.float64] = inter * intra
    return product


def softmax(values: Floats, temperature: float) -> Floats:
    """(K,) shares that sum to 1, proportional to exp(values / temperature)."""
    with np.errstate(over="ignore"):  # far below the largest: no share
        raised = np.exp((values - values.max()) / temperature)
    return np.asarray(raised / raised.sum())
