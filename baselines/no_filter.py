"""The whole pool."""

from harness import Pool, SelectionContext
from harness.uid import Uids


def select(pool: Pool, /, *, ctx: SelectionContext) -> Uids:
    """Keep every pair."""
    return pool.uids()
