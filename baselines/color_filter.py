"""Pairs that a head tuned to trusted pairs finds easier than a head for the whole pool (CoLoR-Filter).

Brandfonbrener et al., CoLoR-Filter, 2024: of two small models, one trained on the pool (prior) and one tuned from it on
the target (conditional), keep the data whose conditional loss lies lowest below its prior loss. Here both models are
heads on stored embeddings, and the loss is CLIP's among `against` random pairs.
Cost: two heads are trained; then, for each pair, products with 2 * `against` embeddings under each head.
"""

from functools import partial
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from baselines import _heads, _pairs, _scores
from baselines._scores import Arch, Floats, Fraction, Temperature
from harness import Pool, SelectionContext, uid
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    trusted: str | None = None,
    size: Annotated[int, Field(ge=2)] = 8192,
    against: Annotated[int, Field(ge=1)] = 512,
    penalty: Annotated[float, Field(gt=0)] = 0.1,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by prior loss minus conditional loss.

    `trusted`, `arch` as in dfn_head; `size`: each head learns from at most this many pairs; `penalty`: how strongly the
    prior head is drawn to the identity, and the conditional one to the prior. `against`: pairs, drawn at random, that
    each one is contrasted with. Size and `temperature` as in score_sampling.
    """
    found = scores(pool, ctx=ctx, trusted=trusted, size=size, against=against, penalty=penalty, arch=arch)
    return _scores.kept(pool, ctx, found, fraction, temperature)


def scores(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    trusted: str | None = None,
    size: int = 8192,
    against: int = 512,
    penalty: float = 0.1,
    arch: str = "l14",
) -> _scores.Scores:
    """Prior loss minus conditional loss, in nats."""
    prior = _heads.bilinear(*_pairs.drawn(pool, ctx, size).embeddings(arch), penalty=penalty, rng=ctx.rng)
    right = _pairs.trusted(pool, ctx, trusted, arch, size).embeddings(arch)
    conditional = _heads.bilinear(*right, start=prior, penalty=penalty, rng=ctx.rng)
    uids, img, txt = _pairs.drawn(pool, ctx, against).embedded(arch)
    names = [f"{arch}_img", f"{arch}_txt"]
    work = partial(_reduction, prior, conditional, uids, (img, txt), names)
    return _scores.computed(pool, work, columns=["uid"], features=names, name="color_filter")


def _reduction(
    prior: Floats,
    conditional: Floats,
    uids: Uids,
    batch: tuple[Floats, Floats],
    names: list[str],
    table: pa.Table,
    features: dict[str, Floats],
) -> Floats:
    img, txt = (features[name] for name in names)
    itself = uid.find(uids, _pairs.uids_of(table))
    before, after = (
        _heads.contrastive_losses(img @ head, txt, (batch[0] @ head, batch[1]), itself=itself)
        for head in (prior, conditional)
    )
    return before - after
