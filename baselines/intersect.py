"""What several methods agree on."""

from functools import reduce

from harness import ArtifactError, MethodError, Pool, SelectionContext, Subset
from harness.selection.combine import Parts, subsets


def select(pool: Pool, /, *, ctx: SelectionContext, of: Parts) -> Subset:
    """Keep what all methods in `of` keep; a uid's count is the smallest that any of them gives."""
    found = subsets(of, pool, ctx)
    try:
        return reduce(Subset.intersection, found)
    except ArtifactError as error:
        raise MethodError("no pair is kept by all of its methods; a subset needs at least one") from error
