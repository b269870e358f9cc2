"""128-bit sample ids as DataComp defines them.

A uid is 32 lower-case hex characters in metadata and a pair of unsigned 64-bit words, most significant
first, in arrays: dtype "u8,u8", `(int(uid[:16], 16), int(uid[16:], 16))`. Arrays of uids are compared
lexicographically. This module is pure NumPy apart from `load` and `save`.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError
from harness.files import atomic_path

UID_DTYPE = np.dtype("u8,u8")
Uids = npt.NDArray[np.void]
"""Shape (N,), dtype UID_DTYPE."""


def from_hex(values: Sequence[str]) -> Uids:
    """Array (N,) of uids from N strings of 32 lower-case hex characters.

    Raises ArtifactError naming the first string that is not one.
    """
    out = np.empty(len(values), dtype=UID_DTYPE)
    for i, value in enumerate(values):
        if len(value) != 32 or value != value.lower():
            raise ArtifactError(f"row {i}: {value!r} is not a uid of 32 lower-case hex characters")
        try:
            out[i] = (int(value[:16], 16), int(value[16:], 16))
        except ValueError as error:
            raise ArtifactError(f"row {i}: {value!r} is not a uid of 32 lower-case hex characters") from error
    return out


def to_hex(uids: Uids) -> list[str]:
    """The N strings of 32 hex characters of an array (N,) of uids."""
    return [f"{high:016x}{low:016x}" for high, low in zip(uids["f0"].tolist(), uids["f1"].tolist(), strict=True)]


def argsort(uids: Uids) -> npt.NDArray[np.int64]:
    """Stable order (N,) that sorts `uids` lexicographically."""
    return np.lexsort((uids["f1"], uids["f0"])).astype(np.int64, copy=False)


def sort(uids: Uids) -> Uids:
    """Sorted copy (N,) of `uids`."""
    return uids[argsort(uids)]


def is_sorted(uids: Uids) -> bool:
    """True if `uids` (N,) never decreases (repeats are allowed)."""
    high, low = uids["f0"], uids["f1"]
    rises = high[1:] > high[:-1]
    level = (high[1:] == high[:-1]) & (low[1:] >= low[:-1])
    return bool(np.all(rises | level))


def find(table: Uids, queries: Uids) -> npt.NDArray[np.int64]:
    """Index (M,) into the sorted `table` (N,) of the first element equal to each query (M,), -1 where there is none."""
    position = np.searchsorted(table["f0"], queries["f0"], side="left").astype(np.int64)
    found = np.full(len(queries), -1, dtype=np.int64)
    todo = np.arange(len(queries))
    while len(todo):
        at = position[todo]
        inside = at < len(table)
        todo, at = todo[inside], at[inside]
        same_high = table["f0"][at] == queries["f0"][todo]
        todo, at = todo[same_high], at[same_high]
        equal = table["f1"][at] == queries["f1"][todo]
        found[todo[equal]] = at[equal]
        later = table["f1"][at] < queries["f1"][todo]
        todo = todo[later]
        position[todo] += 1
    return found


def digest(uids: Uids) -> str:
    """sha256 (hex) over the little-endian bytes of `uids` in their given order."""
    state = hashlib.sha256()
    for start in range(0, len(uids), 1 << 20):
        state.update(np.ascontiguousarray(uids[start : start + (1 << 20)]).tobytes())
    return state.hexdigest()


def save(path: str | os.PathLike[str], uids: Uids) -> None:
    """Write `uids` (N,) to `path` as npy, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(uids.astype(UID_DTYPE, copy=False)), allow_pickle=False)


def load(path: str | os.PathLike[str]) -> Uids:
    """Memory-mapped array (N,) of the uids in the npy file `path`; order is not checked.

    Raises ArtifactError if the file is missing, pickled, of another dtype or shape, or shorter than its header says.
    """
    where = Path(path)
    try:
        array: npt.NDArray[Any] = np.load(where, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{where}: no such uid file") from error
    except (ValueError, OSError, EOFError) as error:
        # An array of length zero cannot be mapped; it is a valid file all the same.
        try:
            array = np.load(where, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            raise ArtifactError(f"{where}: not a readable npy file of uids (dtype u8,u8): {error}") from error
    if array.dtype != UID_DTYPE or array.ndim != 1:
        raise ArtifactError(
            f"{where}: dtype {array.dtype}, shape {array.shape}, but a uid file is one-dimensional with dtype u8,u8; "
            "convert it with `python -m harness.subset convert`"
        )
    return array
