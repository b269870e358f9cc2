"""The n-th largest value of a column that does not fit in memory: exact, by counting leading bits."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

LEADING_BITS = 19
"""Of a float32 that holds a float16 value all lower bits are zero: one pass is enough for CommonPool's scores."""
STEP_BITS = 16

Values = npt.NDArray[Any]
Visit = Callable[[Callable[[Values], Any]], list[Any]]
"""visit(fn) calls fn with the values of every file and gives the results."""


def nth_largest(visit: Visit, n: int) -> float:
    """The element at 0-based index `n` of all values in descending order, NaN last (as -sort(-values)[n] is)."""
    width = max(visit(_width), default=32)
    prefix, known, rest = 0, 0, n
    while known < width:
        step = min(LEADING_BITS if known == 0 else STEP_BITS, width - known)
        counts: Counter[int] = Counter()
        exact = True
        for bins, numbers, ends in visit(partial(_count, width, prefix, known, step)):
            counts.update(dict(zip(bins.tolist(), numbers.tolist(), strict=True)))
            exact &= ends
        chosen = 0
        for chosen in sorted(counts, reverse=True):
            if rest < counts[chosen]:
                break
            rest -= counts[chosen]
        prefix, known = (prefix << step) | chosen, known + step
        if exact:
            break
    return _value(prefix, known, width)


def _width(values: Values) -> int:
    return 32 if values.dtype in (np.float16, np.float32) else 64


def _count(
    width: int, prefix: int, known: int, step: int, values: Values
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], bool]:
    """How often each value of the next `step` bits occurs where the `known` leading bits are `prefix`.

    The third part says that all bits behind them are zero in every value counted.
    """
    word = np.uint32 if width == 32 else np.uint64
    floats = values.astype(np.float32 if width == 32 else np.float64, copy=False)
    bits: npt.NDArray[Any] = np.ascontiguousarray(floats).view(word)
    sign = word(1 << (width - 1))
    # An order of unsigned words that is the order of the floats; NaN below all.
    keys = np.where(bits & sign, np.invert(bits), bits | sign)
    keys[np.isnan(floats)] = 0
    behind = width - known - step
    if known:
        inside = keys >> word(width - known) == prefix
        keys, bits = keys[inside], bits[inside]
    exact = not np.any(bits[keys != 0] & word((1 << behind) - 1))
    totals = np.bincount(((keys >> word(behind)) & word((1 << step) - 1)).astype(np.int64), minlength=1)
    bins = np.flatnonzero(totals)
    return bins, totals[bins], exact


def _value(prefix: int, known: int, width: int) -> float:
    """The float whose word starts with the `known` bits `prefix` and whose own bits behind them are zero."""
    behind = width - known
    key = prefix << behind
    if prefix == 0:
        return float("nan")
    positive = key >> (width - 1)
    bits = key ^ (1 << (width - 1)) if positive else ~(key | ((1 << behind) - 1)) & ((1 << width) - 1)
    word, real = (np.uint32, np.float32) if width == 32 else (np.uint64, np.float64)
    return float(np.array(bits, dtype=word).view(real))
