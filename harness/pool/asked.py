"""What a method asks a pool for, checked before any file is read: MethodError names the call and the argument."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import MethodError, shortened
from harness.pool.reading import Ranges

EXAMPLE = {"columns": "text", "features": "l14_img"}


def whole(method: str, name: str, value: object, *, least: int) -> int:
    """`value` as an int from `least`."""
    if not isinstance(value, int | np.integer) or value < least:
        raise MethodError(f"pool.{method}: {name}={value!r} is not a whole number from {least}")
    return int(value)


def fraction(method: str, name: str, value: Any) -> None:
    """Only a number between 0 and 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise MethodError(f"pool.{method}: {name}={shortened(value)} is not a fraction between 0 and 1")


def names(method: str, name: str, value: Iterable[str]) -> list[str]:
    """`value` as a list of names; a single name is not taken for its letters."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        found = list(value)
        if all(isinstance(one, str) for one in found):
            return found
    raise MethodError(f"pool.{method}: {name}={shortened(value)} is not a list of names, such as [{EXAMPLE[name]!r}]")


def ranges(method: str, name: str, value: Ranges | None) -> Ranges:
    """`value` with each range as a pair; none for None."""
    try:
        found = {column: (low, high) for column, (low, high) in dict(value or {}).items()}
    except (TypeError, ValueError):
        found = None
    if found is None or not all(limit is None or _is_number(limit) for pair in found.values() for limit in pair):
        raise MethodError(
            f"pool.{method}: {name}={shortened(value)} does not give each column a pair of numbers (least, greatest), "
            "None for open"
        )
    return found


def rows(method: str, name: str, value: Any) -> npt.NDArray[np.int64]:
    """`value` as an array of whole numbers (n,)."""
    if not isinstance(value, np.ndarray) or value.ndim != 1 or (len(value) and value.dtype.kind not in "iu"):
        what = f"dtype {value.dtype}, shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise MethodError(
            f"pool.{method}: {name} must be a one-dimensional array of whole numbers, as np.flatnonzero gives ({what})"
        )
    return value.astype(np.int64, copy=False)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, str | bytes)
