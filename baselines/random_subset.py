"""The yardstick of every method: the same number of pairs, drawn at random."""

from typing import Annotated

from pydantic import Field

from harness import ConfigError, Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    size: Annotated[int, Field(gt=0)] | None = None,
) -> Uids:
    """Draw int(fraction * pool) pairs, or `size` of them, all choices equally likely (seed: method.seed)."""
    total = len(pool)
    if size is not None and size > total:
        raise ConfigError(f"method random_subset, parameter size={size}: the pool has only {total} pairs")
    return pool.sample(int(total * fraction) if size is None else size, rng=ctx.rng)
