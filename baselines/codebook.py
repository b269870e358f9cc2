"""Representatives of every cluster, near and far alike (Wang et al. 2023, Too Large; Data Reduction for Vision-Language
Pre-Training: TL;DR, its first stage).

The paper drops pairs whose picture and caption fit badly, clusters codebook features of the rest, and keeps the same
part of every cluster; then it writes new captions, which is not done here. Stored image embeddings stand in for the
codebook of the paper's captioner, the CLIP score for its matching score.

Cost: as prototypes: k-means on 256 rows a cluster, one pass over the embeddings, about 60 bytes a row in memory.
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _clusters, _draw
from baselines._draw import Ints
from harness import ConfigError, Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    aligned: Annotated[float, Field(gt=0, le=1)] = 0.5,
    clusters: _clusters.Clusters = 100,
    key: _clusters.Features = "l14_img",
    score: str = "clip_l14_similarity_score",
) -> Uids:
    """Keep int(fraction * pool) pairs: of each cluster the same part, at even steps from its centre outwards.

    `aligned`: the part of the pool with the best `score` that takes part; `clusters`: entries of the codebook; `key`:
    the embeddings that are clustered (seed: method.seed).
    """
    if fraction > aligned:
        raise ConfigError(f"method codebook: fraction={fraction} of the pool cannot be chosen from aligned={aligned}")
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key, score=score)
    places = places[_draw.top(places["score"], _draw.size_of(len(pool), aligned))]
    sizes = _clusters.sizes(places, clusters)
    wanted = _draw.quotas(sizes / sizes.sum(), sizes, _draw.size_of(len(pool), fraction))
    order = np.lexsort((places["distance"], places["cluster"]))
    return pool.take(np.sort(places["row"][order[spread(places["cluster"][order], wanted)]]))


def spread(groups: Ints, wanted: Ints) -> npt.NDArray[np.bool_]:
    """(N,) of each group in the ascending `groups` (N,) wanted[group] rows, at even steps."""
    sizes = np.bincount(groups, minlength=len(wanted))[groups]
    place, share = _draw.places_in_groups(groups, len(wanted)), wanted[groups]
    chosen: npt.NDArray[np.bool_] = (place + 1) * share // sizes > place * share // sizes
    return chosen
