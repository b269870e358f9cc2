"""Rows drawn at random from a pool."""

import numpy as np
import numpy.typing as npt


def draw(total: int, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`n` different numbers of range(total), ascending, each choice of `n` equally likely.

    Memory grows with `n`; where that is more than half of `total`, those left out are drawn.
    """
    if n > total // 2:
        return np.delete(np.arange(total, dtype=np.int64), draw(total, total - n, rng))
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < n:
        more = _distinct(rng.integers(0, total, size=int((n - len(drawn)) * 1.1) + 16))
        new = more[~np.isin(more, drawn, assume_unique=True)] if len(drawn) else more
        # What is too many is dropped at random, never from one end.
        drawn = np.sort(np.concatenate([drawn, new[rng.permutation(len(new))[: n - len(drawn)]]]))
    return drawn


def _distinct(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers, ascending, each once: np.unique hashes them, which takes a minute for some millions."""
    ordered = np.sort(numbers)
    found: npt.NDArray[np.int64] = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    return found
