"""The clusters of the pool that the target's pictures fall into most often (DP4TL, feature mapping).

Zhang et al., Selectivity Drives Productivity: Efficient Dataset Pruning for Enhanced Transfer Learning, 2023: cluster
the source, count how many target samples fall into each cluster, and drop the clusters that are hit least. The target
is a train split, never a test set.
Cost: k-means on at most 262,144 rows, or 256 a cluster (none if a file is given), and products of every pair with each
centroid; 4 bytes a pair are kept.
"""

from functools import partial
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from baselines import _scores, _targets
from baselines._scores import Floats, Fraction, Temperature
from harness import Pool, SelectionContext
from harness.nearest import load, nearest_and_product
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    centroids: str | None = None,
    clusters: Annotated[int, Field(gt=0)] | None = None,
) -> Uids:
    """Keep the fraction in the clusters hit most often; of those hit equally often, what is nearest to their centroids.

    `centroids`, `clusters` and the targets as in image_based, but the pool's own centroids are 1,024 at most unless
    `clusters` says otherwise, and of a draw of 256 rows for each. Size and `temperature` as in score_sampling.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, centroids=centroids, clusters=clusters), fraction, temperature)


def scores(
    pool: Pool, /, *, ctx: SelectionContext, centroids: str | None = None, clusters: int | None = None
) -> _scores.Scores:
    """Rank of the cluster by hits, from 0, and in the decimals how near to its centroid the pair lies."""
    path, hits = _targets.centroids_and_hits(pool, ctx, centroids, clusters, bounded=True)
    _, rank = np.unique(hits, return_inverse=True)
    work = partial(_rank, path, rank.astype(np.float32))
    return _scores.computed(pool, work, features=[_targets.FEATURES], name="dp4tl")


def _rank(path: str, rank: Floats, table: pa.Table, features: dict[str, Floats]) -> Floats:
    points = load(path)
    label, product = nearest_and_product(features[_targets.FEATURES], points)
    length = np.sqrt(np.einsum("kw,kw->k", points, points))
    cosine = product / np.where(length > 0, length, 1)[label]
    # Decimals in [0, 0.998]: float32 keeps them below the next rank for any number of ranks up to thousands.
    return rank[label] + np.clip((1 + cosine) / 2, 0, 1) * np.float32(0.998)
