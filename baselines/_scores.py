"""What methods that give every pair a number share: computing the numbers, and choosing by them.

Scores are (N,) float32 in pool order; higher is better, NaN where a pair has none. The rule for a fraction is the
reference's (Pool.threshold): the border is the score at 0-based index int(N * fraction) in descending order, NaN last,
and all scores >= border are kept. So int(N * fraction) + 1 pairs are kept, and more only where ties stand at the
border. Pairs without a score are kept by fraction=1 alone, which keeps everything.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from baselines import _draw
from harness import ArtifactError, ConfigError, Pool, SelectionContext
from harness.nearest import one_thread, unit
from harness.pool.view import CHUNK
from harness.uid import Uids

Scores = npt.NDArray[np.float32]
Floats = npt.NDArray[Any]

Fraction = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Arch = Annotated[str, Field(pattern="^[a-z0-9_]+$")]
"""Whose embeddings and scores: b32, l14, or the name that harness.score was given."""

BLOCK = 4096
"""Rows whose embeddings are float32 at once."""


def kept(pool: Pool, ctx: SelectionContext, scores: Scores, fraction: float, temperature: float = 0.0) -> Uids:
    """Sorted uids of the best fraction; with a temperature > 0, of a sample that prefers high scores (`sampled`)."""
    if temperature == 0 or fraction == 1:
        rows = np.flatnonzero(best(scores, fraction))
        if (ties := len(rows) - int(len(scores) * fraction) - 1) > 0:
            ctx.remark(f"{ties} pairs more than asked for, whose score ties with the border's")
        return pool.take(rows)
    return pool.take(sampled(scores, temperature, int(len(scores) * fraction) + 1, ctx.rng))


def require_width(pool: Pool, key: str, width: int, *, of: str) -> None:
    """ArtifactError where embeddings `width` wide, of the path `of`, are not as wide as the pool's `key`."""
    own = next((part.shape[1] for part in pool.features(key)), width)
    if own != width:
        raise ArtifactError(
            f"{of}: its embeddings are {width} wide, {key} of {pool.path} {own}; embed both with the same model"
        )


def best(scores: npt.NDArray[Any], fraction: float) -> npt.NDArray[np.bool_]:
    """Which of `scores` (N,) the reference's rule for a fraction keeps."""
    n = int(len(scores) * fraction)
    if n >= len(scores):
        return np.ones(len(scores), dtype=bool)
    unscored = np.isnan(scores)
    border = np.partition(np.where(unscored, np.inf, -scores), n)[n]
    keep: npt.NDArray[np.bool_] = ~unscored & (-scores <= border)
    return keep


def sampled(scores: Scores, temperature: float, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Ascending rows of `size` draws without replacement, each with odds exp(standardised score / temperature).

    Standardised, a temperature means the same for every scorer. Rows without a score are never drawn; where fewer than
    `size` have one, all of those are.
    """
    known = np.flatnonzero(~np.isnan(scores))
    return known[_draw.gumbel_top(standardised(scores[known]) / temperature, size, rng)]


def standardised(scores: Scores) -> npt.NDArray[np.float64]:
    """The deviations (N,) from the mean in standard deviations; 0 where all are the same, NaN stays NaN.

    ConfigError if one is infinite: then the others have no deviation.
    """
    found = scores.astype(np.float64)
    known = found[~np.isnan(found)]
    if np.isinf(known).any():
        raise ConfigError(
            "some scores are infinite, so the others have no standard deviation; mend them, or choose with "
            "temperature=0 (and by=rank in fusion)"
        )
    if len(known):
        found -= known.mean()
        found /= known.std() or 1.0
    return found


def column(pool: Pool, name: str) -> Scores:
    """The numbers of a metadata column. ConfigError if it holds other things."""
    return joined(pool.map(partial(numbers, name), columns=[name], rows=CHUNK, name=name))


def computed(
    pool: Pool,
    fn: Callable[[pa.Table, dict[str, Floats]], npt.NDArray[Any]],
    *,
    features: Sequence[str],
    columns: Sequence[str] = (),
    name: str,
) -> Scores:
    """fn(table, features) of every pair: `features` are float32 of length 1, at most 4,096 rows of them at once."""
    return joined(pool.map(partial(_by_blocks, fn), columns=columns, features=features, rows=CHUNK, name=name))


def _by_blocks(
    fn: Callable[[pa.Table, dict[str, Floats]], npt.NDArray[Any]],
    table: pa.Table,
    features: dict[str, npt.NDArray[Any]],
) -> Scores:
    found = np.empty(table.num_rows, dtype=np.float32)
    with one_thread():
        for start in range(0, len(found), BLOCK):
            stop = min(start + BLOCK, len(found))
            block = {name: unit(array[start:stop]) for name, array in features.items()}
            found[start:stop] = fn(table.slice(start, stop - start), block)
            for rows in block.values():
                found[start:stop][~rows.any(axis=1)] = np.nan  # zeros are no embedding
    return found


def numbers(name: str, table: pa.Table) -> Scores:
    """The column `name` of a table (rows,); NaN for null. ConfigError if it holds other things than numbers."""
    values = table[name]
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_null(values.type)):
        raise ConfigError(f"column {name!r} of the pool holds {values.type}, not numbers; it is no score")
    return np.asarray(values.to_numpy(), dtype=np.float32)


def joined(parts: list[Scores]) -> Scores:
    """The results of a pass over the pool as one array (N,)."""
    return np.concatenate([np.empty(0, np.float32), *parts])
