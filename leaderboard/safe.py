"""Reading files that strangers sent: size and header first, content after.

Nothing here follows links, unpickles, or allocates what a header merely claims.
"""

import os
import stat
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness import npy
from harness.errors import ArtifactError, from_os_error
from harness.eval import predictions
from harness.uid import UID_DTYPE, Uids

MAX_FILE = 1 << 30
"""Bytes of the largest file that may stand in an entry's folder."""
MAX_FILES = 20_000


def regular_files(folder: Path) -> dict[str, int]:
    """Relative path (with `/`) to size in bytes of every file below `folder`.

    Raises ArtifactError for a link, a device, a file that is too large, or too many files.
    """
    found: dict[str, int] = {}
    todo = [folder]
    while todo:
        here = todo.pop()
        try:
            children = list(os.scandir(here))
        except OSError as error:
            raise from_os_error(error, here) from error
        for child in children:
            info = child.stat(follow_symlinks=False)
            name = Path(child.path).relative_to(folder).as_posix()
            if stat.S_ISDIR(info.st_mode):
                todo.append(Path(child.path))
            elif not stat.S_ISREG(info.st_mode):
                raise ArtifactError(f"{name!r} is a link or a device, not a file")
            elif info.st_size > MAX_FILE:
                raise ArtifactError(f"{name!r} holds {info.st_size:,} bytes, more than {MAX_FILE:,}")
            else:
                found[name] = info.st_size
            if len(found) + len(todo) > MAX_FILES:
                raise ArtifactError(f"more than {MAX_FILES:,} files")
    return found


def load_array(path: Path, *, dtype: npt.DTypeLike, ndim: int) -> npt.NDArray[Any]:
    """The memory-mapped array of an npy file that has this dtype and number of dimensions, else an ArtifactError."""
    return npy.load(path, dtype=dtype, ndim=ndim, name=path.name)


def check_npy(path: Path) -> None:
    """ArtifactError unless `path` is an npy file of plain numbers or bytes whose header describes exactly its size."""
    npy.require_plain(path, name=path.name)


def load_uids(path: Path) -> Uids:
    """The memory-mapped uids (N,) of an npy file; order is not checked."""
    return load_array(path, dtype=UID_DTYPE, ndim=1)


def load_predictions(path: Path, *, rows: int) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    """Keys and columns of a task's predictions; refused before they are read if they are more than `rows` rows."""
    try:
        footer = pq.ParquetFile(path).metadata
        unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{path.name}: not a readable table of predictions") from error
    if footer.num_rows > rows or unpacked > MAX_FILE or footer.num_columns > 32:
        raise ArtifactError(f"{path.name}: {footer.num_rows:,} rows, {unpacked:,} bytes; too large for {rows:,} rows")
    return predictions.read(path)
