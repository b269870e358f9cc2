"""image_based and clip_score together, which made DataComp-1B (DataComp, baselines/apply_filter.py)."""

from pydantic import PositiveInt

from baselines import clip_score, image_based
from baselines._scores import Arch, Fraction
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    arch: Arch = "l14",
    fraction: Fraction | None = None,
    threshold: float | None = None,
    centroids: str | None = None,
    clusters: PositiveInt | None = None,
) -> Uids:
    """What both image_based and clip_score keep; a fraction is one of the whole pool (0.3 if nothing is given).

    `arch`, `fraction`, `threshold` are those of clip_score, `centroids` and `clusters` those of image_based.
    """
    within = clip_score.border(pool, arch, fraction, threshold)
    keep = image_based.prepared(pool, ctx, centroids, clusters)
    return pool.filter(keep, columns=["text"], features=[image_based.FEATURES], within=within, name="image and score")
