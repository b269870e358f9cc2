"""What a worker does with one metadata file in a pass over the pool."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.errors import HarnessError, MethodError, machines_fault
from harness.pool import scanning
from harness.pool.reading import MetadataFile, Ranges, Stretch, stretches
from harness.uid import Uids

Array = npt.NDArray[Any]


def map_file(fn: Callable[..., Any], what: dict[str, Any], file: MetadataFile) -> list[Any]:
    """fn(table[, features]) of every stretch of the file; `what` are the arguments of `stretches`."""
    return [_apply(fn, stretch, bool(what["features"])) for stretch in stretches(file, **what)]


def scan_uids(within: Ranges, file: MetadataFile) -> list[Uids]:
    """Sorted uids of the file's visible rows within the ranges, in a list of one."""
    return [uid.sort(scanning.uids(file, within))]


def filter_file(fn: Callable[..., Any], what: dict[str, Any], file: MetadataFile) -> list[Uids]:
    """Sorted uids of the rows that `fn` keeps, in a list of one."""
    given = bool(what["features"])
    kept = [stretch.uids(_as_mask(_apply(fn, stretch, given), stretch)) for stretch in stretches(file, **what)]
    return [uid.sort(np.concatenate([np.empty(0, uid.UID_DTYPE), *kept]))]


def visit_file(column: str, fn: Callable[[Array], Any], file: MetadataFile) -> list[Any]:
    """fn(values of the column), in a list of one."""
    return [fn(scanning.values(file, column))]


def pick_rows(chunk: int, item: tuple[MetadataFile, npt.NDArray[np.int64]]) -> Uids:
    """Sorted uids of the visible rows at the ascending places that stand beside the file; `chunk` rows at a time."""
    file, rows = item
    kept = [np.empty(0, uid.UID_DTYPE)]
    done = 0
    for stretch in stretches(file, columns=("uid",), rows=chunk) if len(rows) else ():
        here = rows[np.searchsorted(rows, done) : np.searchsorted(rows, done + stretch.table.num_rows)] - done
        keep = np.zeros(stretch.table.num_rows, dtype=bool)
        keep[here] = True
        kept.append(stretch.uids(keep))
        done += len(keep)
    return uid.sort(np.concatenate(kept))


def _apply(fn: Callable[..., Any], stretch: Stretch, with_features: bool) -> Any:
    try:
        return fn(stretch.table, stretch.features) if with_features else fn(stretch.table)
    except uid.NotUidError:
        if "uid" in stretch.table.column_names:
            stretch.uids()  # which knows the file and the row
        raise
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        wrapped = machines_fault(error, f"the function on {stretch.file.path}") or MethodError(
            f"{stretch.file.path}: the function raised {type(error).__name__}: {error}"
        )
        wrapped.add_note(traceback.format_exc())
        raise wrapped from error


def _as_mask(answer: Any, stretch: Stretch) -> npt.NDArray[np.bool_]:
    mask = np.asarray(answer)
    rows = stretch.table.num_rows
    if mask.dtype != np.bool_ or mask.shape != (rows,):
        raise MethodError(
            f"{stretch.file.path}: the function given to pool.filter returned {type(answer).__name__} of dtype "
            f"{mask.dtype} and shape {mask.shape}; it must return one boolean for each of its {rows} rows"
        )
    return mask
