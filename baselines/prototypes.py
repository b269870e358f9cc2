"""Pairs far from, or near to, their cluster's prototype (Sorscher et al. 2022, Beyond neural scaling laws).

The metric is the distance of an image embedding to the nearest k-means centroid. The paper keeps the hard examples,
far from it, where data is plentiful, and the easy ones where it is scarce; of web data the hardest are often junk.

Cost: k-means on 256 rows a cluster and one pass over the embeddings (N * clusters * width multiplications); about 60
bytes a row in memory.
"""

from typing import Annotated, Literal

from pydantic import Field

from baselines import _clusters, _draw
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    keep: Literal["hard", "easy"] = "hard",
    clusters: _clusters.Clusters = 100,
    key: _clusters.Features = "l14_img",
) -> Uids:
    """Keep the int(fraction * pool) pairs that are hardest (farthest from their prototype) or easiest (nearest).

    `keep`: which of the two; `clusters`: number of prototypes; `key`: the embeddings that
    are clustered (seed: method.seed).
    """
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key)
    hardness = places["distance"] if keep == "hard" else -places["distance"]
    return pool.take(places["row"][_draw.top(hardness, _draw.size_of(len(pool), fraction))])
