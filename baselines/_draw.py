"""Choosing rows by numbers computed for them: the best ones, shares of groups, draws with given probabilities.

Rows are named by their place in pool order; every function gives them ascending, as `pool.take` wants them. Ties go to
the row that stands first.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
"""(n,) ascending places."""
Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def size_of(pool_size: int, fraction: float) -> int:
    """How many pairs a method keeps: int(fraction * pool), at least one."""
    return max(1, int(pool_size * fraction))


def top(keys: Floats, size: int) -> Rows:
    """The `size` rows with the largest `keys` (N,), NaN below all; every row if size >= N."""
    if size >= len(keys):
        return np.arange(len(keys))
    known = np.where(np.isnan(keys), -np.inf, keys)
    border = np.partition(known, len(known) - size)[len(known) - size]
    above = known > border
    at_border = np.flatnonzero(known == border)[: size - int(above.sum())]
    above[at_border] = True
    return np.flatnonzero(above)


def gumbel_top(log_weights: Floats, size: int, rng: np.random.Generator) -> Rows:
    """`size` different rows drawn one after the other with probabilities proportional to exp(log_weights) (N,).

    Gumbel top-k (Vieira 2014; Kool et al. 2019): the largest keys after adding independent Gumbel noise.
    """
    return top(log_weights + rng.gumbel(size=len(log_weights)), size)


def systematic(probabilities: Floats, rng: np.random.Generator) -> Rows:
    """Rows drawn so that row i is in with probability `probabilities[i]` (N,) in [0, 1] exactly.

    As many as the probabilities' sum, rounded down or up (Madow 1949, systematic sampling in an order by chance).
    """
    order = rng.permutation(len(probabilities))
    sums = np.cumsum(probabilities[order], dtype=np.float64)
    if not len(sums):
        return order
    whole = round(sums[-1])
    if abs(sums[-1] - whole) < 1e-6 + 1e-9 * whole:
        # A sum that is whole but for rounding gives exactly that many.
        sums[-1] = whole
    steps = np.floor(np.concatenate([[0.0], sums]) + rng.random())
    return np.sort(order[np.diff(steps) > 0])


def scaled(probabilities_at: Callable[[float], Floats], size: float, *, most: float) -> float:
    """The factor in (0, most] at which the probabilities sum to `size`; `most` where they never reach it.

    `probabilities_at(factor)` must not fall as the factor grows.
    """
    if probabilities_at(most).sum() <= size:
        return most
    return _root(lambda factor: probabilities_at(factor).sum() - size, 0.0, most)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where `rising`, negative or 0 at `low` and positive or 0 at `high`, is 0, as exactly as float64 goes."""
    from scipy.optimize import brentq

    return float(brentq(rising, low, high, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=1000))


def top_of_groups(keys: Floats, groups: Ints, quotas: Ints) -> Rows:
    """Of each group g its `quotas[g]` rows with the largest `keys` (N,), or all where it has fewer.

    `groups` (N,): numbers of groups in range(len(quotas)).
    """
    order = np.lexsort((-keys, groups))
    return np.sort(order[places_in_groups(groups[order], len(quotas)) < quotas[groups[order]]])


def places_in_groups(groups: Ints, count: int) -> Rows:
    """(N,) how many rows of the same group stand before each row; `groups` (N,) ascending in range(count)."""
    sizes = np.bincount(groups, minlength=count)
    starts = np.cumsum(sizes) - sizes
    return np.arange(len(groups)) - starts[groups]


def quotas(shares: Floats, sizes: Ints, total: int) -> Ints:
    """Whole numbers (K,) that sum to min(total, sum of sizes), none above `sizes` (K,), nearest to shares * total.

    Nearest by squares, with at least one for each group that is not empty where `total` allows it: the quadratic
    programme of Abbas et al. (2024), solved by its shift: clip(shares * total + shift, least, sizes).
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    total = min(total, int(sizes.sum()))
    least = np.minimum(sizes, 1 if total >= np.count_nonzero(sizes) else 0)
    wanted = np.asarray(shares, dtype=np.float64) * total
    low, high = -float(wanted.max(initial=0)) - 1, float(sizes.max(initial=0)) + 1
    shift = _root(lambda shift: np.clip(wanted + shift, least, sizes).sum() - total, low, high)
    return _rounded(np.clip(wanted + shift, least, sizes), sizes, total)


def allotted(weights: Floats, sizes: Ints, total: int) -> npt.NDArray[np.int64]:
    """Whole numbers (K,) in proportion to `weights` (K,) >= 0, none above `sizes` (K,), that sum to `total`.

    What a full group cannot take goes to the others in proportion; a group of weight 0 gets nothing, so the sum is
    smaller where the others have fewer rows than `total`.
    """
    sizes = np.where(weights > 0, sizes, 0).astype(np.int64)
    total = rest = min(total, int(sizes.sum()))
    exact = np.zeros(len(sizes))
    open_ = np.flatnonzero(sizes)
    while len(open_):
        exact[open_] = rest * (weights[open_] / weights[open_].sum())
        full = exact[open_] >= sizes[open_]
        if not full.any():
            break
        # What is full now stays full, as the others' part only grows.
        exact[open_[full]] = sizes[open_[full]]
        rest -= int(sizes[open_[full]].sum())
        open_ = open_[~full]
    return _rounded(exact, sizes, total)


def _rounded(exact: Floats, sizes: Ints, total: int) -> npt.NDArray[np.int64]:
    """Whole numbers next to `exact` (K,) that sum to `total`, as it does but for rounding; none above `sizes` (K,)."""
    found: npt.NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    # The largest remainders are rounded up, so that the sum is right.
    rest = total - int(found.sum())
    open_ = np.flatnonzero(found < sizes)
    found[open_[np.argsort(-(exact - found)[open_], kind="stable")[:rest]]] += 1
    return found
