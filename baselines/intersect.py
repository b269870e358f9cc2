"""What several methods agree on."""

from functools import reduce

from harness import Pool, SelectionContext, Subset
from harness.selection.combine import Parts, subsets


def select(pool: Pool, /, *, ctx: SelectionContext, of: Parts) -> Subset:
    """Keep what all methods in `of` keep; a uid's count is the smallest that any of them gives."""
    return reduce(Subset.intersection, subsets(of, pool, ctx))
