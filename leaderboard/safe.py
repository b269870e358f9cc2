"""Reading files that strangers sent: size and header first, content after.

Nothing here follows links, unpickles, or allocates what a header merely claims.
"""

import contextlib
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import npy
from harness.errors import ArtifactError, from_os_error
from harness.eval import predictions
from harness.eval.suite import Task
from harness.uid import UID_DTYPE, Uids
from leaderboard import columns

MAX_FILE = 1 << 30
"""Bytes of the largest file that may stand in an entry's folder."""
MAX_FILES = 20_000
MAX_FOLDER = 4 << 30
"""Bytes of all files of an entry."""
MAX_RECORDS = 64 << 20
"""Bytes of all its records: in memory they are some twenty times as large."""
MAX_UNPACKED = 4 << 30
"""Bytes of memory that reading a table of predictions may take."""
MAX_KEY = 1000
"""Bytes of the longest key of a prediction."""
MAX_WIDTH = 64
"""Numbers a row of a column of predictions."""


def require_file(path: Path) -> None:
    """ArtifactError unless `path` is a plain file, not too large and not a link."""
    try:
        info = path.lstat()
    except OSError as error:
        raise from_os_error(error, path) from error
    if not stat.S_ISREG(info.st_mode):
        raise ArtifactError(f"{path}: is not a plain file")
    if info.st_size > MAX_FILE:
        raise ArtifactError(f"{path}: holds {info.st_size:,} bytes, more than {MAX_FILE:,}")


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
    for what, total, most in (
        ("files", sum(found.values()), MAX_FOLDER),
        ("records", sum(size for name, size in found.items() if name.endswith(".json")), MAX_RECORDS),
    ):
        if total > most:
            raise ArtifactError(f"{what} of {total:,} bytes, more than {most:,}")
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


def load_predictions(path: Path, task: Task) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    """Keys and columns of the predictions of `task`.

    ArtifactError unless they are no more rows than the task has, of a short key and whole numbers, by the file's
    footer before anything is read, and in fact; and unless the numbers are classes, groups and indices that the task
    has. A page may unpack to more than the footer says, so memory is bounded while reading.
    """
    try:
        with _memory(MAX_UNPACKED):
            # As a dictionary one long key that stands in every row is held once.
            file = pq.ParquetFile(path, read_dictionary=["key"])
            _check_footer(file, path.name, rows=columns.most_rows(task))
            for part in file.read(columns=["key"])["key"].chunks:
                if (longest := pc.max(pc.binary_length(part.dictionary)).as_py() or 0) > MAX_KEY:
                    raise ArtifactError(f"{path.name}: a key of {longest:,} bytes, more than {MAX_KEY}")
            keys, values = predictions.read(path)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ArtifactError(f"{path.name}: not a readable table of predictions ({type(error).__name__})") from error
    if None in keys:
        raise ArtifactError(f"{path.name}: a row has no key")
    try:
        columns.check(values, task)
    except ArtifactError as error:
        raise ArtifactError(f"{path.name}: {error}") from error
    return keys, values


def _check_footer(file: pq.ParquetFile, name: str, *, rows: int) -> None:
    footer, schema = file.metadata, file.schema_arrow
    unpacked = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    if footer.num_rows > rows or unpacked > MAX_FILE or footer.num_columns > 32:
        raise ArtifactError(f"{name}: {footer.num_rows:,} rows, {unpacked:,} bytes; too large for {rows:,} rows")
    if len(set(schema.names)) != len(schema.names) or "key" not in schema.names:
        raise ArtifactError(f"{name}: columns must have names of their own, and one be key")
    for field in schema:
        inner, wide = field.type, 1
        if pa.types.is_fixed_size_list(inner):
            inner, wide = inner.value_type, inner.list_size
        right = pa.types.is_integer(inner) or pa.types.is_boolean(inner)
        if field.name == "key":
            right = pa.types.is_dictionary(inner) and pa.types.is_string(inner.value_type)
        if wide > MAX_WIDTH or not right:
            raise ArtifactError(f"{name}: column {field.name[:40]!r} is of type {str(field.type)[:60]}")


@contextlib.contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let this process take `more` bytes beside what it has; what goes beyond is a MemoryError. Linux only."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    old = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(statm.read_text().split()[0]) * resource.getpagesize() + more
    if old[1] != resource.RLIM_INFINITY:
        limit = min(limit, old[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
