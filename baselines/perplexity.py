"""Captions that a language model finds the least surprising (POINTS).

Liu et al., POINTS: Improving Your Vision-language Model with Affordable Strategies, 2024: of the captions, those with
the lowest perplexity are kept. The paper asks a large language model; here it is a small one by word n-grams
(baselines/_language_model), which knows nothing but what it learned: it finds junk, foreign and garbled captions, and
rare words too, surprising, and what is said often, right or wrong, not.
Cost: one pass over the captions at 10 to 16 microseconds of one core each; 16 bytes for each different n-gram of the
captions learned from, 16 MB for 100,000 made ones of 10 words with a large vocabulary.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from baselines import _pairs, _scores
from baselines._language_model import Model
from baselines._scores import Arch, Fraction, Temperature
from baselines._target_texts import target_texts
from harness import ArtifactError, Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    texts: str = "trusted",
    size: Annotated[int, Field(ge=1)] = 100_000,
    n: Annotated[int, Field(ge=1, le=5)] = 3,
    arch: Arch = "l14",
) -> Uids:
    """Keep the fraction with the lowest perplexity, the mean over the caption's words and its end.

    `texts`: what the model learns from: the captions of trusted pairs (trusted: those the pool offers, else the tenth
    with the best CLIP scores of `arch`), texts like those of evaluation (targets, as in dsir), captions of the pool
    itself (pool), or a file with one text a line; at most `size` of them, drawn at random. `n`: words of the longest
    n-grams. A caption without a word has no score. Size and `temperature` as in score_sampling.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, texts=texts, size=size, n=n, arch=arch), fraction, temperature)


def scores(
    pool: Pool, /, *, ctx: SelectionContext, texts: str = "trusted", size: int = 100_000, n: int = 3, arch: str = "l14"
) -> _scores.Scores:
    """Minus the logarithm of the perplexity, in nats a word."""
    known = [text for text in _texts(pool, ctx, texts, size, arch) if any(map(str.isalnum, text))]
    if not known:
        raise ArtifactError(f"{pool.path}: the texts of method.texts={texts} hold no word; give others")
    model = Model.learned(known, n)
    ctx.remark(f"perplexity under an n-gram model of {len(known)} texts, {len(model.hashes)} n-grams")
    model.save(ctx.scratch)
    work = partial(_log_chances, ctx.scratch, n, model.unknown)
    return _scores.joined(pool.map(work, columns=["text"], rows=1 << 15, name="perplexity"))


def _texts(pool: Pool, ctx: SelectionContext, source: str, size: int, arch: str) -> list[str]:
    """At most `size` texts to learn from."""
    if source == "trusted":
        return _pairs.trusted(pool, ctx, None, arch, size).captions()
    if source == "pool":
        return _pairs.drawn(pool, ctx, size).captions()
    found = target_texts(pool, ctx, None if source == "targets" else source)
    if len(found) > size:
        found = [found[row] for row in ctx.rng.choice(len(found), size, replace=False)]
    return found


def _log_chances(folder: Path, n: int, unknown: float, table: pa.Table) -> _scores.Scores:
    return Model.load(folder, n=n, unknown=unknown).log_chances(table["text"].to_pylist())
