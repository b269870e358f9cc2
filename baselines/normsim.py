"""Pictures like those of a target: the p-norm of their similarities to the target's pictures (NormSim).

Wang et al., CLIPLoss and Norm-Based Data Selection Methods, 2024, which keeps what both this and negCLIPLoss like:
method=intersect 'method.of=[negcliploss,normsim]'. The target is a train split, never a test set.
Cost: l2 needs one (width, width) product a pair; max one with each of at most `targets` pictures.
"""

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from baselines import _scores, _targets
from baselines._scores import Arch, Floats, Fraction, Temperature
from harness import Pool, SelectionContext
from harness.nearest import nearest_and_product, one_thread, unit
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
    norm: Literal["l2", "max"] = "max",
    targets: Annotated[int, Field(ge=1)] = 2048,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by NormSim: the p-norm of the picture's cosines with the targets' pictures.

    `norm`: max (p = infinity) is the largest cosine, l2 (p = 2) the root of the mean square (the paper: of the sum).
    The targets are those of image_based: the train split that the pool offers, else ImageNet-1k's published
    embeddings; max takes at most `targets` of them, drawn at random. `arch` as in dfn_head, size and
    `temperature` as in score_sampling.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, norm=norm, targets=targets, arch=arch), fraction, temperature)


def scores(
    pool: Pool, /, *, ctx: SelectionContext, norm: Literal["l2", "max"] = "max", targets: int = 2048, arch: str = "l14"
) -> _scores.Scores:
    """The largest cosine, or the root of the mean square cosine."""
    name = f"{arch}_img"
    if norm == "max":
        work = partial(_largest, _targets.drawn(pool, ctx, name, targets), name)
    else:
        work = partial(_root_mean_square, _second_moments(_targets.embeddings(pool, ctx, name)), name)
    return _scores.computed(pool, work, features=[name], name="normsim")


def _largest(targets: Floats, name: str, table: pa.Table, features: dict[str, Floats]) -> Floats:
    return nearest_and_product(features[name], targets)[1]


def _root_mean_square(products: Floats, name: str, table: pa.Table, features: dict[str, Floats]) -> Floats:
    rows = features[name]
    found: Floats = np.sqrt(np.maximum(np.einsum("nw,nw->n", rows @ products, rows), 0))
    return found


def _second_moments(rows: npt.NDArray[Any]) -> Floats:
    """Mean outer product (width, width) of `rows` (n, width), each scaled to length 1."""
    total = np.zeros((rows.shape[1], rows.shape[1]), dtype=np.float64)
    for start in range(0, len(rows), _scores.BLOCK):
        part = unit(rows[start : start + _scores.BLOCK])
        with one_thread():
            total += part.T @ part
    return (total / max(len(rows), 1)).astype(np.float32)
