"""Pairs whose picture lies where ImageNet's do (DataComp, baselines/apply_filter.py, image_based)."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import PositiveInt

from baselines import _targets
from harness import Pool, SelectionContext, language
from harness.nearest import load, nearest
from harness.uid import Uids

FEATURES = "l14_img"


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    centroids: str | None = None,
    clusters: PositiveInt | None = None,
) -> Uids:
    """Captions that pass the filter, whose image's centroid is that of an ImageNet-1k training image.

    `centroids`: an npy file (K, width), as harness.centroids writes it; by default the published ones of the scale.
    Where `clusters` is given, or those cannot be had or are not as wide as the pool's embeddings, the pool's own are
    made first (of the reference's sample at large and xlarge). The targets are the train split that the pool offers,
    else the published ImageNet-1k embeddings.
    """
    return pool.filter(
        prepared(pool, ctx, centroids, clusters), columns=["text"], features=[FEATURES], name="image_based"
    )


def prepared(pool: Pool, ctx: SelectionContext, centroids: str | None, clusters: int | None) -> Any:
    """The function that pool.filter takes: True = keep."""
    identifier = language.fasttext()
    ctx.remark(identifier.remark)
    path, hits = _targets.centroids_and_hits(pool, ctx, centroids, clusters)
    return partial(_keep, identifier.model, path, hits > 0)


def _keep(
    model: str, path: str, wanted: npt.NDArray[np.bool_], table: pa.Table, features: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.bool_]:
    keep = language.passes_caption_filter(table["text"].to_pylist(), model)
    left = np.flatnonzero(keep)
    keep[left] = wanted[nearest(features[FEATURES][left], load(path))]
    return keep
