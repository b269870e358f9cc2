"""Captions drawn so that concepts become equally frequent, or logarithmically so (Udandarao et al. 2024, No
"Zero-Shot" Without Exponential Data: accuracy on a concept grows with the logarithm of its frequency).

Each concept has a target weight: 1 (flat) or log(1 + count) (log). It is shared among the captions that name it, and a
caption's chance is the mean over its concepts, times the factor that gives the size, at most 1. Unlike metaclip, which
caps frequent concepts and leaves the others as they are, this flattens the whole range. Captions that name nothing are
dropped.

Cost: as metaclip: one pass over the captions; in memory 8 bytes a row and 4 a match.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from baselines import _concepts, _draw
from harness import MethodError, Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    target: Literal["log", "flat"] = "log",
    concepts: str = "imagenet21k",
) -> Uids:
    """Draw int(fraction * pool) captions, rare concepts first, or all that name a concept if they are fewer.

    `target`: how frequent concepts shall be beside each other; `concepts`: imagenet21k, wordnet, or a file with one a
    line (seed: method.seed).
    """
    found = _concepts.matches(pool, concepts)
    if not len(found.named):
        raise MethodError(f"parameter concepts={concepts!r}: no caption of the pool names one of the list's concepts")
    counts = found.counts
    wanted = np.log1p(counts) if target == "log" else np.ones(len(counts))
    share = wanted / np.maximum(counts, 1)
    weight = found.reduced(share, np.add) / np.diff(found.borders)[found.named]
    size = _draw.size_of(len(pool), fraction)
    factor = _draw.scaled(lambda f: np.minimum(1, f * weight), size, most=1 / float(weight.min()))
    ctx.remark(f"{found.concepts} concepts, {np.count_nonzero(counts)} of them named")
    return pool.take(found.named[_draw.systematic(np.minimum(1, factor * weight), ctx.rng)])
