"""Captions balanced over a list of concepts (Xu et al. 2024, Demystifying CLIP Data: MetaCLIP).

A caption names the concepts that stand in it as words. A concept that more than t captions name gives each of them
the chance t / count; rare ones keep all. Captions that name nothing are dropped. The paper's list has 500,000 entries
from WordNet and Wikipedia and t = 20,000 for 400 million pairs.

Cost: one pass over the captions (Aho-Corasick: time grows with their length, not with the list); in memory about 50
bytes a row and 16 a match.
"""

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _concepts, _draw
from baselines._concepts import Matches
from harness import Pool, SelectionContext
from harness.uid import Uids

Combine = Literal["union", "max"]


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    cap: Annotated[float, Field(gt=0)] | None = None,
    concepts: str = "imagenet21k",
    combine: Combine = "union",
) -> Uids:
    """Draw int(fraction * pool) captions with each concept's share capped, or all with a concept if they are fewer.

    `cap`: the paper's t; by default the one that gives the fraction (with a cap, the size is what follows from it, and
    fraction counts for nothing). `concepts`: imagenet21k, wordnet, or a file with one a line. `combine`: a caption with
    several concepts gets the chance that one of its draws succeeds (union, the paper) or the largest of them (max).
    """
    found = _concepts.matches(pool, concepts)
    most = float(found.counts.max())
    if cap is None:
        cap = _draw.scaled(partial(chances, found, combine), _draw.size_of(len(pool), fraction), most=most)
    ctx.remark(f"{found.concepts} concepts, {np.count_nonzero(found.counts)} of them named; cap {cap:.6g} a concept")
    return pool.take(found.named[_draw.systematic(chances(found, combine, cap), ctx.rng)])


def chances(found: Matches, combine: Combine, cap: float) -> npt.NDArray[np.floating[Any]]:
    """(len(found.named),) chance of each caption with a concept to be taken, in [0, 1]."""
    each = np.minimum(1, cap / np.maximum(found.counts, 1))
    if combine == "max":
        return found.reduced(each, np.maximum)
    # The product of the chances to fail, as a sum of logarithms; a concept below the cap never fails.
    with np.errstate(divide="ignore"):
        return -np.expm1(found.reduced(np.log1p(-each), np.add))
