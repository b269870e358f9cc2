"""Pairs drawn with odds that rise with a score, instead of the best ones (QuRating, Wettig et al., 2024).

QuRating found that the highest-rated texts alone make poor training data, and samples with ratings as logits.
Cost: one column is read; 12.8 million keys take a second and 0.2 GB.
"""

from baselines import _scores
from baselines._scores import Fraction, Temperature
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    column: str = "clip_l14_similarity_score",
    fraction: Fraction = 0.3,
    temperature: Temperature = 1.0,
) -> Uids:
    """Draw int(n * fraction) + 1 pairs without replacement, with odds exp(standardised column / temperature).

    `column`: of the metadata, any numbers; a `temperature` of 0 keeps the best, as clip_score does, a large one draws
    evenly. Pairs without a score (NaN, null) are never drawn, unless fraction=1 keeps everything.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, column=column), fraction, temperature)


def scores(pool: Pool, /, *, ctx: SelectionContext, column: str = "clip_l14_similarity_score") -> _scores.Scores:
    """The column."""
    return _scores.column(pool, column)
