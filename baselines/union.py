"""What any of several methods keeps."""

from functools import reduce

from harness import Pool, SelectionContext, Subset
from harness.selection.combine import Parts, subsets


def select(pool: Pool, /, *, ctx: SelectionContext, of: Parts) -> Subset:
    """Keep what at least one method in `of` keeps; a uid's count is the largest that any of them gives."""
    return reduce(Subset.union, subsets(of, pool, ctx))
