"""The pairs whose CLIP similarity score is high (DataComp, baselines/apply_filter.py, clip_score)."""

from baselines._scores import Arch, Fraction
from harness import ConfigError, Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    arch: Arch = "l14",
    fraction: Fraction | None = None,
    threshold: float | None = None,
) -> Uids:
    """Keep the scores >= threshold, or the best fraction (0.3 if neither is given) with all ties at its border.

    The border of a fraction is the score at 0-based index int(n * fraction) in descending order, NaN last, so at
    least int(n * fraction) + 1 pairs are kept. fraction=1 keeps everything. `arch`: whose scores, b32, l14 or the name
    that harness.score was given.
    """
    return pool.filter(within=border(pool, arch, fraction, threshold), name="clip_score")


def border(
    pool: Pool, arch: str, fraction: float | None, threshold: float | None
) -> dict[str, tuple[float | None, float | None]]:
    """The range of scores to keep; empty where all are kept."""
    if fraction is not None and threshold is not None:
        raise ConfigError("clip_score: give either method.fraction or method.threshold, not both")
    column = f"clip_{arch}_similarity_score"
    if threshold is None:
        fraction = 0.3 if fraction is None else fraction
        if fraction == 1:
            return {}
        threshold = pool.threshold(column, keep=fraction)
    return {column: (threshold, None)}
