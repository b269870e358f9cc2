"""Pairs that a classifier takes for good ones rather than random ones (Arctic-SnowCoder).

Wei et al., Arctic-SnowCoder, 2024: a small annotator trained to tell good data from random data picks what a model is
trained on last. Here it is logistic regression on stored embeddings: of the picture, of the caption, and of how they
agree (their product, width by width).
Cost: a regression of 3 * width columns on 2 * `size` rows; then one pass over the embeddings.
"""

from functools import partial
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from baselines import _heads, _pairs, _scores
from baselines._scores import Arch, Floats, Fraction, Temperature
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    trusted: str | None = None,
    size: Annotated[int, Field(ge=2)] = 20_000,
    penalty: Annotated[float, Field(gt=0)] = 1e-3,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by the log odds of being good.

    `trusted` as in dfn_head: the good pairs. `size`: at most this many good and as many random pairs are learned from.
    `penalty`: of squared weights, of columns scaled to deviation 1. Size and `temperature` as in score_sampling.
    """
    found = scores(pool, ctx=ctx, trusted=trusted, size=size, penalty=penalty, arch=arch)
    return _scores.kept(pool, ctx, found, fraction, temperature)


def scores(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    trusted: str | None = None,
    size: int = 20_000,
    penalty: float = 1e-3,
    arch: str = "l14",
) -> _scores.Scores:
    """Log odds of being good, if as many were good as random."""
    good, random = _pairs.trusted(pool, ctx, trusted, arch, size), _pairs.drawn(pool, ctx, size)
    rows = [_rows(*pairs.embeddings(arch)) for pairs in (good, random)]
    is_good = np.repeat([True, False], [len(part) for part in rows])
    weights = _heads.logistic(np.concatenate(rows), is_good, penalty=penalty)
    names = [f"{arch}_img", f"{arch}_txt"]
    return _scores.computed(pool, partial(_log_odds, weights, names), features=names, name="good_vs_random")


def _rows(img: Floats, txt: Floats) -> Floats:
    """(n, 3 * width): picture, caption, and their product width by width."""
    return np.concatenate([img, txt, img * txt], axis=1)


def _log_odds(weights: Floats, names: list[str], table: pa.Table, features: dict[str, Floats]) -> Floats:
    found: Floats = _rows(*(features[name] for name in names)) @ weights[:-1] + weights[-1]
    return found
