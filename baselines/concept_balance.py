"""Captions drawn so that concepts come nearer to being equally frequent, or logarithmically so (Udandarao et al. 2024,
No "Zero-Shot" Without Exponential Data: accuracy on a concept grows with the logarithm of its frequency).

Each concept has a target weight: 1 (flat) or log(1 + count) (log). It is shared among the captions that name it, and a
caption's chance is the mean over its concepts, times the factor that gives the size, at most 1. Unlike metaclip, which
caps frequent concepts and leaves the others as they are, this flattens the whole range. Where captions name one concept
each, frequencies become what is wanted; where they name several, frequent concepts come along with rare ones and stay
more frequent. Captions that name nothing are dropped.

Cost: as metaclip: one pass over the captions; in memory about 50 bytes a row and 16 a match.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _concepts, _draw
from baselines._concepts import Matches
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    frequency: Literal["log", "flat"] = "log",
    concepts: str = "imagenet21k",
) -> Uids:
    """Draw int(fraction * pool) captions, rare concepts first, or all that name a concept if they are fewer.

    `frequency`: what each concept shall have: the logarithm of its own, or all the same; `concepts`: imagenet21k,
    wordnet, or a file with one a line (seed: method.seed).
    """
    found = _concepts.matches(pool, concepts)
    ctx.remark(f"{found.concepts} concepts, {np.count_nonzero(found.counts)} of them named")
    taken = _draw.systematic(chances(found, frequency, _draw.size_of(len(pool), fraction)), ctx.rng)
    return pool.take(found.named[taken])


def chances(found: Matches, frequency: str, size: int) -> npt.NDArray[np.float64]:
    """(len(found.named),) chance of each caption with a concept to be taken, in [0, 1], with sum `size` at most."""
    counts = found.counts
    wanted = np.log1p(counts) if frequency == "log" else np.ones(len(counts))
    weight = found.reduced(wanted / np.maximum(counts, 1), np.add) / np.diff(found.borders)[found.named]

    def at(factor: float) -> npt.NDArray[np.float64]:
        return np.minimum(1, factor * weight)

    return at(_draw.scaled(at, size, most=1 / float(weight.min())))
