"""CLIP's loss instead of its score: similarity less what the pair shares with others by accident (negCLIPLoss).

Wang et al., CLIPLoss and Norm-Based Data Selection Methods, 2024: a caption that fits everything, or a picture that
every caption fits, has a high CLIP score and still a high loss. The score is
    s_ii - tau / 2 * (log sum_j exp(s_ij / tau) + log sum_j exp(s_ji / tau))
over a batch that the pair is in. The paper averages over random batches of the pool; here one random batch of `batch`
pairs stands for all, so that a pair's score does not hang on its neighbours in a file.
Cost: products of every pair with 2 * `batch` embeddings.
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
    batch: Annotated[int, Field(ge=1)] = 2048,
    tau: Annotated[float, Field(gt=0)] = _heads.TAU,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by negCLIPLoss.

    `batch`: pairs, drawn at random, that each one is contrasted with; `tau`: temperature of the loss;
    `arch` as in dfn_head. Size and `temperature` as in score_sampling.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, batch=batch, tau=tau, arch=arch), fraction, temperature)


def scores(
    pool: Pool, /, *, ctx: SelectionContext, batch: int = 2048, tau: float = _heads.TAU, arch: str = "l14"
) -> _scores.Scores:
    """negCLIPLoss, in units of similarity; never above 0."""
    uids, img, txt = _pairs.drawn(pool, ctx, batch).embedded(arch)
    names = [f"{arch}_img", f"{arch}_txt"]
    work = partial(_negative_loss, uids, (img, txt), tau, names)
    return _scores.computed(pool, work, columns=["uid"], features=names, name="negcliploss")


def _negative_loss(
    uids: Uids,
    others: tuple[Floats, Floats],
    tau: float,
    names: list[str],
    table: pa.Table,
    features: dict[str, Floats],
) -> Floats:
    img, txt = (features[name] for name in names)
    itself = uid.find(uids, _pairs.uids_of(table))
    return -tau * _heads.contrastive_losses(img, txt, others, itself=itself, tau=tau)
