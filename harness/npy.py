"""npy files, header first: what a header merely claims is never allocated, and nothing is unpickled."""

import ast
import math
import os
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError, from_os_error
from harness.files import atomic_path

MAX_HEADER = 4096
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}
"""Version of the npy format to the bytes of its header's length."""


class NotNpyError(ArtifactError):
    """A file is of another kind altogether."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an npy file says about itself."""

    name: str
    """The file, as messages call it."""
    descr: Any
    """The dtype as a literal."""
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    """Where the data begin."""
    size: int
    """Bytes of the whole file."""

    def require_size(self, itemsize: int) -> None:
        """ArtifactError unless the file holds exactly what the header describes, with items of `itemsize` bytes."""
        expected = self.offset + itemsize * math.prod(self.shape)
        if self.size != expected:
            raise ArtifactError(f"{self.name}: the npy header describes {expected:,} bytes, the file has {self.size:,}")


def header(path: str | os.PathLike[str], *, name: str | None = None) -> Header:
    """The header of the local npy file `path`, read as a literal of bounded length; `name` stands in messages.

    Raises ArtifactError if the file is missing or not an npy file.
    """
    shown = name or str(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            magic = file.read(8)
            length_bytes = _LENGTH_BYTES.get(magic[6:8]) if magic[:6] == b"\x93NUMPY" else None
            if length_bytes is None:
                raise NotNpyError(f"{shown}: not an npy file of version 1 or 2")
            length = int.from_bytes(file.read(length_bytes), "little")
            if length > MAX_HEADER:
                raise ArtifactError(f"{shown}: npy header of {length:,} bytes, more than {MAX_HEADER:,}")
            text = file.read(length)
            offset = file.tell()
    except OSError as error:
        raise from_os_error(error, path) from error
    try:
        value = ast.literal_eval(text.decode("latin1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ArtifactError(f"{shown}: the npy header is not a literal") from error
    if len(text) != length or not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        raise ArtifactError(f"{shown}: the npy header does not have exactly descr, fortran_order and shape")
    shape, fortran = value["shape"], value["fortran_order"]
    if (
        not isinstance(fortran, bool)
        or not isinstance(shape, tuple)
        or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
    ):
        raise ArtifactError(f"{shown}: shape {str(shape)[:60]} or order of the npy header is not usable")
    return Header(shown, value["descr"], shape, fortran, offset, size)


def load(
    path: str | os.PathLike[str], *, dtype: npt.DTypeLike | None = None, ndim: int = 1, name: str | None = None
) -> npt.NDArray[Any]:
    """The memory-mapped array in the local npy file `path`, of this dtype (None: any) and number of dimensions.

    An array without elements is an ordinary one, as it cannot be mapped. Raises ArtifactError if the file is missing,
    is something else, or does not hold exactly the bytes that its header describes.
    """
    found = header(path, name=name)
    wanted = _dtype(found) if dtype is None else np.dtype(dtype)
    # Compared as text: building a dtype from a stranger's description could mean objects, hence pickles.
    if dtype is not None and found.descr != np.lib.format.dtype_to_descr(wanted):
        raise ArtifactError(f"{found.name}: dtype {str(found.descr)[:60]}, expected {wanted}")
    if len(found.shape) != ndim or found.fortran:
        order = " in Fortran order" if found.fortran else ""
        raise ArtifactError(f"{found.name}: shape {str(found.shape)[:60]}{order}, expected {ndim} dimensions")
    found.require_size(wanted.itemsize)
    if 0 in found.shape:
        return np.empty(found.shape, dtype=wanted)
    try:
        return np.memmap(path, dtype=wanted, mode="r", offset=found.offset, shape=found.shape)
    except OSError as error:
        raise from_os_error(error, path) from error


def save(path: str | os.PathLike[str], array: npt.NDArray[Any]) -> None:
    """Write `array` to the local `path` as npy, atomically. Raises InfraError if the disk is full."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        # NumPy writes to a plain file by tofile, whose OSError on a full disk does not say why; to others by write.
        target = SimpleNamespace(write=file.write)
        np.lib.format.write_array(target, np.ascontiguousarray(array), allow_pickle=False)


def _dtype(found: Header) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(found.descr)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ArtifactError(f"{found.name}: dtype {str(found.descr)[:60]} is none of NumPy's") from error
    if dtype.hasobject:
        raise ArtifactError(f"{found.name}: holds Python objects, which are never read")
    return dtype


def require_plain(path: str | os.PathLike[str], *, name: str | None = None) -> None:
    """ArtifactError unless `path` is an npy file of plain numbers or bytes whose header describes exactly its size."""
    found = header(path, name=name)
    sizes = _field_sizes(found.descr)
    if not sizes or found.fortran:
        raise ArtifactError(f"{found.name}: dtype {str(found.descr)[:60]} is not one of plain numbers or bytes")
    found.require_size(sum(sizes))


def _field_sizes(descr: object) -> list[int]:
    """Bytes of each field that a header's dtype describes; empty if one is not a plain number or bytes."""
    names = [item[-1] if isinstance(item, tuple) else item for item in descr] if isinstance(descr, list) else [descr]
    plain = [re.fullmatch(r"[<|][biufS]([0-9]{1,4})", name) if isinstance(name, str) else None for name in names]
    return [] if None in plain else [int(found[1]) for found in plain if found is not None]
