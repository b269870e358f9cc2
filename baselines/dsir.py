"""Captions resampled to look like target texts (Xie et al. 2023, Data Selection for Language Models via Importance
Resampling: DSIR).

A caption is a bag of hashed n-grams. Its weight is the ratio of its probabilities under the n-gram distributions of the
target and of the pool, and pairs are drawn without replacement in proportion to it (Gumbel top-k). Weights are
products over n-grams, as in the paper, so long captions get more extreme ones. Captions without a word have none, and
come after all others.

Cost: three passes over the captions with some microseconds of one core a caption; in memory about 30 bytes a row, and 8
for every bucket and file.
"""

from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _draw, _ngrams
from baselines._target_texts import target_texts
from harness import Pool, SelectionContext, uid
from harness.uid import Uids

ROWS = 1 << 15
"""Captions worked on at once."""


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    texts: str | None = None,
    n: Annotated[int, Field(ge=1, le=5)] = 2,
    buckets: Annotated[int, Field(ge=2)] = 10_000,
) -> Uids:
    """Draw int(fraction * pool) pairs by how much likelier their caption is among the target's texts than in the pool.

    `texts`: the target, a file with one text a line; by default the texts that the pool offers (targets/texts.txt), or
    where there are none, class names in prompt templates. `n`: words of the longest n-grams; `buckets`: of the hash
    (seed: method.seed).
    """
    wanted = _ngrams.counts(target_texts(pool, ctx, texts), n=n, width=buckets)
    raw = _pool_counts(pool, n, buckets)
    ratio = np.log(_ngrams.probabilities(wanted)) - np.log(_ngrams.probabilities(raw))
    np.save(ctx.scratch / "ratio.npy", ratio, allow_pickle=False)
    work = partial(_weights, str(ctx.scratch / "ratio.npy"), n, buckets)
    parts = pool.map(work, columns=["text"], rows=ROWS, name="weights")
    weights = np.concatenate([np.empty(0, np.float32), *parts])
    rows = _draw.gumbel_top(weights, _draw.size_of(len(pool), fraction), ctx.rng)
    found = pool.take(rows)
    uid.save(ctx.scratch / "found.npy", uid.sort(found))
    chosen = _pool_counts(pool, n, buckets, among=str(ctx.scratch / "found.npy"))
    before, after = (_ngrams.divergence(wanted, counted) for counted in (raw, chosen))
    ctx.remark(f"KL of n-grams to the target's: {before:.4f} nats of the pool, {after:.4f} of what is kept")
    return found


def _pool_counts(pool: Pool, n: int, width: int, among: str | None = None) -> npt.NDArray[np.int64]:
    """(width,) n-grams in each bucket, of the pool or of its pairs whose uids are in the file `among`."""
    columns = ["text"] if among is None else ["uid", "text"]
    parts = pool.map(partial(_counts, n, width, among), columns=columns, name="n-grams")
    total: npt.NDArray[np.int64] = np.sum([np.zeros(width, np.int64), *parts], axis=0)
    return total


def _counts(n: int, width: int, among: str | None, table: Any) -> npt.NDArray[np.int64]:
    if among is not None:
        table = table.filter(uid.find(uid.load(among), uid.from_hex(table["uid"].to_pylist())) >= 0)
    total = np.zeros(width, np.int64)
    for batch in table.to_batches(ROWS):
        total += _ngrams.counts(batch["text"].to_pylist(), n=n, width=width)
    return total


def _weights(path: str, n: int, width: int, table: Any) -> npt.NDArray[np.float32]:
    """(rows,) logarithm of each caption's importance weight."""
    rows, bucket = _ngrams.buckets(table["text"].to_pylist(), n=n, width=width)
    ratio = np.load(path, allow_pickle=False)
    weights = np.bincount(rows, weights=ratio[bucket], minlength=table.num_rows).astype(float)  # int where it has none
    # An empty product would be 1, and so larger than the weight of nearly all that has words.
    weights[np.bincount(rows, minlength=table.num_rows) == 0] = -np.inf
    return weights.astype(np.float32)
