"""Pairs that a classifier takes for good ones rather than random ones (Arctic-SnowCoder).

Wei et al., Arctic-SnowCoder, 2024: a small annotator trained to tell good data from random data picks what a model is
trained on last. Here it is logistic regression, on stored embeddings (the picture's, the caption's, and how they agree:
their product, width by width) or on the caption's hashed n-grams.
Cost: a regression on 2 * `size` rows of 3 * width columns; then one pass over the embeddings. With captions, a pass
over them at about 10 microseconds of one core each.
"""

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from baselines import _heads, _ngrams, _pairs, _scores
from baselines._scores import Arch, Floats, Fraction, Scores, Temperature
from harness import Pool, SelectionContext
from harness.uid import Uids

BUCKETS = 1 << 16
"""Of hashed n-grams of one and two words."""
On = Literal["embeddings", "captions"]


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    on: On = "embeddings",
    trusted: str | None = None,
    size: Annotated[int, Field(ge=2)] = 10_000,
    penalty: Annotated[float, Field(gt=0)] = 1e-3,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by the log odds of being good.

    `on`: what the classifier sees. `trusted`, `arch` as in dfn_head: the good pairs, and whose embeddings. `size`: at
    most this many good and as many random pairs are learned from. `penalty`: of squared weights. Size and
    `temperature` as in score_sampling.
    """
    found = scores(pool, ctx=ctx, on=on, trusted=trusted, size=size, penalty=penalty, arch=arch)
    return _scores.kept(pool, ctx, found, fraction, temperature)


def scores(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    on: On = "embeddings",
    trusted: str | None = None,
    size: int = 10_000,
    penalty: float = 1e-3,
    arch: str = "l14",
) -> Scores:
    """Log odds of being good, if as many were good as random."""
    both = _pairs.trusted(pool, ctx, trusted, arch, size), _pairs.drawn(pool, ctx, size)
    if on == "captions":
        is_good = np.repeat([True, False], [len(pairs.uids) for pairs in both])
        grams = _gram_rows([caption for pairs in both for caption in pairs.captions()])
        work = partial(_caption_odds, _heads.logistic(grams, is_good, penalty=penalty))
        return _scores.joined(pool.map(work, columns=["text"], rows=1 << 15, name="good_vs_random"))
    good, others = (_rows(*pairs.embeddings(arch)) for pairs in both)
    is_good = np.repeat([True, False], [len(good), len(others)])
    weights = _heads.logistic(np.concatenate([good, others]), is_good, penalty=penalty)
    names = [f"{arch}_img", f"{arch}_txt"]
    return _scores.computed(pool, partial(_log_odds, weights, names), features=names, name="good_vs_random")


def _rows(img: Floats, txt: Floats) -> Floats:
    """(n, 3 * width): picture, caption, and their product width by width."""
    return np.concatenate([img, txt, img * txt], axis=1)


def _log_odds(weights: Floats, names: list[str], table: pa.Table, features: dict[str, Floats]) -> Floats:
    found: Floats = _rows(*(features[name] for name in names)) @ weights[:-1] + weights[-1]
    return found


def _grams(captions: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Caption and bucket of every n-gram, and its value: one over the root of its caption's n-grams."""
    rows, buckets = _ngrams.buckets(captions, n=2, width=BUCKETS)
    return rows, buckets, np.float32(1) / np.sqrt(np.bincount(rows, minlength=len(captions)), dtype=np.float32)[rows]


def _gram_rows(captions: list[str]) -> Any:
    from scipy import sparse

    rows, buckets, values = _grams(captions)
    return sparse.csr_array((values, (rows, buckets)), shape=(len(captions), BUCKETS))


def _caption_odds(weights: Floats, table: pa.Table) -> Scores:
    rows, buckets, values = _grams(table["text"].to_pylist())
    odds = np.bincount(rows, weights=weights[buckets] * values, minlength=table.num_rows) + float(weights[-1])
    odds[np.bincount(rows, minlength=table.num_rows) == 0] = np.nan  # without a word nothing speaks for or against
    return odds.astype(np.float32)
