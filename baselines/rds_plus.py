"""The pairs nearest to the target's pictures, each target taking its turn (RDS+).

Ivison et al., Large-Scale Data Selection for Instruction Tuning, 2025: the plainest selection by representation beat
all others once pools were large. It ranks by cosine with each query, and the queries take turns, so that none of them
takes all. The queries here are pictures of a train split, never of a test set.
Cost: products of every pair with at most `targets` embeddings; 8 bytes a pair are kept.
"""

from typing import Annotated

from pydantic import Field

from baselines import _scores, _targets, _turns
from baselines._scores import Arch, Fraction, Temperature
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    targets: Annotated[int, Field(ge=1)] = 2048,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by turn: every target has taken its nearest pairs equally often, or has none left.

    A pair stands with the target it is nearest to. The targets are those of image_based, at most `targets` of them,
    drawn at random. The last turn is kept whole, so the subset exceeds int(n * fraction) by less than the number of
    targets. `arch` as in dfn_head, `temperature` as in score_sampling.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, targets=targets, arch=arch), fraction, temperature)


def scores(pool: Pool, /, *, ctx: SelectionContext, targets: int = 2048, arch: str = "l14") -> _scores.Scores:
    """Minus the turn in which a pair is taken."""
    name = f"{arch}_img"
    return _turns.scores(pool, _targets.drawn(pool, ctx, name, targets), name)
