"""What a pass over the pool keeps: results of single files for a run that is resumed, and uids beyond memory."""

import hashlib
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

from harness import uid
from harness.errors import from_os_error
from harness.files import write_bytes
from harness.pool.reading import MetadataFile
from harness.uid import Uids

SPILL_ROWS = 1 << 24
"""Uids collected in memory (256 MB) before they are merged and, where there is a folder, wait there."""


def identity(work: Callable[..., Any]) -> str | None:
    """sha256 (hex) of a function and the values that travel with it: the same in a later run of the same source.

    None where a value cannot be pickled, so that nobody can tell.
    """
    state = hashlib.sha256()
    try:
        _Identity(SimpleNamespace(write=state.update)).dump(work)
    except Exception:  # noqa: BLE001 - values of a stranger may fail in any way when they are pickled
        return None
    return state.hexdigest()


class _Identity(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a function as its place in the source: the bytes of its code may differ from process to process."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            place = (value.__module__, value.__qualname__, value.__code__.co_firstlineno)
            return object, (), (place, value.__defaults__, value.__kwdefaults__, value.__closure__)
        return super().reducer_override(value)


def resumable(folder: str, work: Callable[[MetadataFile], list[Any]], file: MetadataFile) -> list[Any]:
    """work(file), or what an earlier run left of it in `folder`. Only results that are arrays are left."""
    return kept(Path(folder) / f"{os.path.basename(file.path)}.npz", partial(work, file))


def kept(path: Path, work: Callable[[], list[Any]]) -> list[Any]:
    """work(), or what an earlier run left of it in the npz file `path`. Only results that are arrays are left."""
    if path.exists():
        with np.load(path, allow_pickle=False) as done:
            return [done[f"arr_{place}"] for place in range(len(done.files))]
    results = work()
    if all(isinstance(result, np.ndarray) and not result.dtype.hasobject for result in results):
        content = io.BytesIO()
        np.savez(content, *results)
        write_bytes(path, content.getvalue())
    return results


def scratch_of(folder: Path, work: str) -> Path:
    """The scratch folder of this work: empty, or with what an interrupted run of the same work has finished."""
    scratch = folder / work[:16]
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        for other in folder.iterdir():
            if other.is_dir() and other != scratch:
                shutil.rmtree(other)
    except OSError as error:
        raise from_os_error(error, folder) from error
    return scratch


def gathered(parts: Iterable[Uids], folder: Path | None) -> Uids:
    """The sorted multiset union of sorted `parts`, read-only.

    Where there is a `folder` and more than SPILL_ROWS, the result is a memory-mapped file there, merged from sorted
    runs that wait there, too; otherwise all of it is in memory.
    """
    left = iter(parts)
    held = _some(left) if folder is not None else list(left)
    if folder is None or sum(map(len, held)) <= SPILL_ROWS:
        result = _merged(held)
    else:
        result = _merged_in(folder, itertools.chain([held], iter(lambda: _some(left), [])))
    if result.flags.writeable:
        result.flags.writeable = False
    return result


def _some(parts: Iterator[Uids]) -> list[Uids]:
    """The next of `parts`, until they exceed SPILL_ROWS."""
    taken, size = [], 0
    while size <= SPILL_ROWS and (part := next(parts, None)) is not None:
        taken.append(part)
        size += len(part)
    return taken


def _merged(parts: list[Uids]) -> Uids:
    result = np.empty(sum(map(len, parts)), uid.UID_DTYPE)
    done = 0
    for piece in uid.merged(parts):
        result[done : done + len(piece)] = piece
        done += len(piece)
    return result


def _merged_in(folder: Path, runs: Iterable[list[Uids]]) -> Uids:
    """The merged parts of all `runs`, each of which is merged first."""
    waiting, merged = folder / "runs.npy", folder / "merged.npy"
    ends = [0]

    def pieces() -> Iterator[Uids]:
        for run in runs:
            ends.append(ends[-1] + sum(map(len, run)))
            yield from uid.merged(run)
            run.clear()  # before the next is collected

    folder.mkdir(parents=True, exist_ok=True)
    uid.write_pieces(waiting, pieces())  # one file for all runs: each mapped file would hold a descriptor
    table = uid.load(waiting)
    uid.write_pieces(merged, uid.merged([table[start:end] for start, end in itertools.pairwise(ends)]))
    waiting.unlink()
    return uid.load(merged)
