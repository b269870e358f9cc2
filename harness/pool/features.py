"""Embeddings beside the metadata: members of X.npz, read row by row without loading the whole file."""

import contextlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError, HarnessError, from_os_error
from harness.files import is_remote, open_file

Array = npt.NDArray[Any]
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, RuntimeError, SyntaxError, ValueError
)  # fmt: skip
"""What zipfile and NumPy raise on a file that is not whole."""


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Errors of reading the npz file `path` come out as ArtifactError, or InfraError where the machine failed."""
    try:
        yield
    except _DAMAGED as error:
        raise ArtifactError(f"{path}: not a readable npz file: {error}; download it again") from error
    except OSError as error:
        raise from_os_error(error, path) from error


class FeatureFile:
    """The arrays `names` of one npz file, each (rows, width), read forward in stretches of rows.

    A stored (uncompressed) member of a local file is memory-mapped, of a remote one read by range; a compressed
    member is streamed. float16 is what CommonPool holds; another float type is handed on as it is.
    """

    def __init__(self, path: str, names: Sequence[str], rows: int) -> None:
        """Raises ArtifactError if the file, a member or a row is missing; `rows` is what the parquet file has."""
        self.path = path
        try:
            self._file: IO[bytes] = open_file(path)
        except ArtifactError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise ArtifactError(f"{error}; `python -m harness.score` makes embeddings") from error
            raise
        try:
            with reading(path):
                self._zip = zipfile.ZipFile(self._file)
                self._members = {name: self._member(name, rows) for name in names}
        except HarnessError:
            self._file.close()
            raise

    def _member(self, name: str, rows: int) -> "_Member":
        known = [entry.removesuffix(".npy") for entry in self._zip.namelist() if entry.endswith(".npy")]
        if name not in known:
            raise ArtifactError(f"{self.path}: no array {name!r} (there are: {', '.join(known) or 'none'})")
        member = _Member(self.path, self._file, self._zip, f"{name}.npy")
        if len(member.shape) != 2 or member.dtype.kind != "f":
            raise ArtifactError(
                f"{self.path}: array {name!r} has shape {member.shape} and dtype {member.dtype}, "
                "but features are two-dimensional floats"
            )
        if member.shape[0] != rows:
            raise ArtifactError(
                f"{self.path}: array {name!r} has {member.shape[0]} rows, its parquet file {rows}; download both again"
            )
        return member

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Rows [start, stop) of every array; `start` must not lie before an earlier `stop`."""
        with reading(self.path):
            return {name: member.read(start, stop) for name, member in self._members.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()


class _Member:
    def __init__(self, path: str, file: IO[bytes], archive: zipfile.ZipFile, entry: str) -> None:
        self.path, self._file = path, file
        info = archive.getinfo(entry)
        self._stream: IO[bytes] = archive.open(info)
        major, _ = np.lib.format.read_magic(self._stream)
        reader = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = reader(self._stream)
        if fortran or self.dtype.hasobject:
            raise ValueError(f"{entry} is in Fortran order or holds objects")
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._at = 0
        self._offset: int | None = None
        self._map: Array | None = None
        if info.compress_type == zipfile.ZIP_STORED:
            file.seek(info.header_offset + 26)
            name_size, extra_size = struct.unpack("<HH", file.read(4))
            self._offset = info.header_offset + 30 + name_size + extra_size + self._stream.tell()
            if not is_remote(path) and self.shape[0]:
                self._map = np.memmap(path, self.dtype, "r", self._offset, self.shape)

    def read(self, start: int, stop: int) -> Array:
        if self._map is not None:
            return self._map[start:stop]
        size = (stop - start) * self._row_bytes
        if self._offset is not None:
            self._file.seek(self._offset + start * self._row_bytes)
            content = self._file.read(size)
        else:
            self._skip((start - self._at) * self._row_bytes)
            content = self._stream.read(size)
            self._at = stop
        if len(content) != size:
            raise ArtifactError(f"{self.path}: ends early; download it again")
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._stream.read(min(size, 1 << 20))) or size
