"""A coreset of the pool as near as can be to a target: pairs nearest to the target's centroids, in turns (SimCore).

Kim et al., Coreset Sampling from Open-Set for Fine-Grained Self-Supervised Learning, 2023: the subset with the least
distance to the target, found by letting the centroids of the target take their nearest samples again and again. The
paper can also stop before the budget is used up; here the fraction decides.
Cost: k-means of the target; products of every pair with `clusters` centroids; 8 bytes a pair are kept.
"""

from typing import Annotated

from pydantic import Field

from baselines import _scores, _targets, _turns
from baselines._scores import Arch, Fraction, Temperature
from harness import Pool, SelectionContext, centroids
from harness.nearest import unit
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    clusters: Annotated[int, Field(ge=1)] = 100,
    targets: Annotated[int, Field(ge=1)] = 100_000,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by turn: every centroid of the target has taken its nearest pairs equally often.

    The targets are those of image_based, at most `targets` of them, drawn at random, in `clusters` clusters (no more
    than there are targets). Size, `arch` and `temperature` as in rds_plus.
    """
    found = scores(pool, ctx=ctx, clusters=clusters, targets=targets, arch=arch)
    return _scores.kept(pool, ctx, found, fraction, temperature)


def scores(
    pool: Pool, /, *, ctx: SelectionContext, clusters: int = 100, targets: int = 100_000, arch: str = "l14"
) -> _scores.Scores:
    """Minus the turn in which a pair is taken."""
    name = f"{arch}_img"
    rows = _targets.drawn(pool, ctx, name, targets)
    found = centroids.kmeans(rows, min(clusters, len(rows)), seed=int(ctx.rng.integers(1 << 31)), start="spread")
    return _turns.scores(pool, unit(found), name)
