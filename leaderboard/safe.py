"""Reading files that strangers sent: size and header first, content after.

Nothing here follows links, unpickles, or allocates what a header merely claims.
"""

import ast
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ArtifactError, from_os_error
from harness.eval import predictions
from harness.uid import UID_DTYPE, Uids

MAX_HEADER = 4096
MAX_FILE = 1 << 30
"""Bytes of the largest file that may stand in an entry's folder."""
MAX_FILES = 20_000
_VERSIONS = {b"\x01\x00": 2, b"\x02\x00": 4}
"""Version of the npy format to the bytes of its header's length."""


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
    """The memory-mapped array of an npy file that has this dtype and number of dimensions.

    The header is read as a literal of bounded length and must describe exactly the bytes that follow, so a header
    that promises more than there is allocates nothing. Raises ArtifactError for anything else.
    """
    wanted = np.dtype(dtype)
    header, offset, size = _header(path)
    # Compared as text: building a dtype from a stranger's description could mean objects, hence pickles.
    if header["descr"] != np.lib.format.dtype_to_descr(wanted):
        raise ArtifactError(f"{path.name}: dtype {str(header['descr'])[:60]}, expected {wanted}")
    shape = header["shape"]
    if len(shape) != ndim:
        raise ArtifactError(f"{path.name}: shape {str(shape)[:60]}, expected {ndim} dimensions")
    expected = offset + wanted.itemsize * math.prod(shape)
    if size != expected:
        raise ArtifactError(f"{path.name}: the npy header describes {expected:,} bytes, the file has {size:,}")
    if 0 in shape:
        return np.empty(shape, dtype=wanted)
    return np.memmap(path, dtype=wanted, mode="r", offset=offset, shape=shape)


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Header of an npy file, offset of its data, and size of the file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            magic = file.read(8)
            length_bytes = _VERSIONS.get(magic[6:8]) if magic[:6] == b"\x93NUMPY" else None
            if length_bytes is None:
                raise ArtifactError(f"{path.name}: not an npy file of version 1 or 2")
            length = int.from_bytes(file.read(length_bytes), "little")
            if length > MAX_HEADER:
                raise ArtifactError(f"{path.name}: npy header of {length:,} bytes, more than {MAX_HEADER:,}")
            text = file.read(length)
            offset = file.tell()
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        value = ast.literal_eval(text.decode("latin1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ArtifactError(f"{path.name}: the npy header is not a literal") from error
    if len(text) != length or not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        raise ArtifactError(f"{path.name}: the npy header does not have exactly descr, fortran_order and shape")
    shape = value["shape"]
    if (
        value["fortran_order"] is not False
        or not isinstance(shape, tuple)
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
    ):
        raise ArtifactError(f"{path.name}: shape {str(shape)[:60]} or order of the npy header is not usable")
    return value, offset, size


def check_npy(path: Path) -> None:
    """ArtifactError unless `path` is an npy file of plain numbers or bytes whose header describes exactly its size."""
    header, offset, size = _header(path)
    sizes = _field_sizes(header["descr"])
    if not sizes:
        raise ArtifactError(f"{path.name}: dtype {str(header['descr'])[:60]} is not one of plain numbers or bytes")
    expected = offset + math.prod(header["shape"]) * sum(sizes)
    if size != expected:
        raise ArtifactError(f"{path.name}: the npy header describes {expected:,} bytes, the file has {size:,}")


def _field_sizes(descr: object) -> list[int]:
    """Bytes of each field that a header's dtype describes; empty if one is not a plain number or bytes."""
    names = [item[-1] if isinstance(item, tuple) else item for item in descr] if isinstance(descr, list) else [descr]
    plain = [re.fullmatch(r"[<|][biufS]([0-9]{1,4})", name) if isinstance(name, str) else None for name in names]
    return [] if None in plain else [int(found[1]) for found in plain if found is not None]


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
