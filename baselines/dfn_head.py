"""A data filtering network in its cheap form: CLIP's embeddings with a head trained on trusted pairs (DFN).

Fang et al., Data Filtering Networks, 2023: a CLIP trained on a little right data, whatever its own accuracy, re-scores
the pool, and the best are kept. Here the towers are those whose embeddings are stored, and only a matrix between them
is trained, with CLIP's loss, on trusted pairs alone. The full form, a CLIP of its own, is in docs/methods.md.
Cost: training multiplies `size` pairs with a (width, width) matrix some 50 times; then one pass over the embeddings.
"""

from functools import partial
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from baselines import _heads, _pairs, _scores
from baselines._scores import Arch, Floats, Fraction, Temperature
from harness import Pool, SelectionContext
from harness.nearest import unit
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
    penalty: Annotated[float, Field(gt=0)] = 0.1,
    arch: Arch = "l14",
) -> Uids:
    """Keep the best fraction by the similarity that a head trained on trusted pairs sees between picture and caption.

    `trusted`: a uid file, or the folder of a pool of right pairs; by default what the pool offers, else the tenth with
    the best CLIP scores. `size`: of them at most this many are learned from. `penalty`: how strongly the head is drawn
    to the identity, which is the CLIP score. `arch`: whose embeddings, b32, l14 or the name that harness.score was
    given. Size and `temperature` as in score_sampling; 0 keeps the best.
    """
    found = scores(pool, ctx=ctx, trusted=trusted, size=size, penalty=penalty, arch=arch)
    return _scores.kept(pool, ctx, found, fraction, temperature)


def scores(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    trusted: str | None = None,
    size: int = 8192,
    penalty: float = 0.1,
    arch: str = "l14",
) -> _scores.Scores:
    """Cosine of the picture's embedding, passed through the head, and the caption's."""
    img, txt = _pairs.trusted(pool, ctx, trusted, arch, size).embeddings(arch)
    head = _heads.bilinear(img, txt, penalty=penalty, rng=ctx.rng)
    names = [f"{arch}_img", f"{arch}_txt"]
    return _scores.computed(pool, partial(_cosines, head, names), features=names, name="dfn_head")


def _cosines(head: Floats, names: list[str], table: pa.Table, features: dict[str, Floats]) -> Floats:
    img, txt = (features[name] for name in names)
    found: Floats = np.einsum("nw,nw->n", unit(img @ head), txt)
    return found
