"""Pairs of high score, seen more often."""

from typing import Any

import numpy as np

from harness import Pool, SelectionContext


def select(pool: Pool, /, *, ctx: SelectionContext, times: int = 3, keep: float = 0.5) -> Any:
    """Keep the better part of the pool, and its best tenth several times over."""
    column = "clip_l14_similarity_score"
    kept = pool.filter(within={column: (pool.threshold(column, keep=keep), None)})
    best = pool.filter(within={column: (pool.threshold(column, keep=keep / 10), None)})
    counts = np.where(np.isin(kept, best), times, 1)
    return kept, counts
