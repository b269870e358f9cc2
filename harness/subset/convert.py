"""Uids from files of any kind: text with one uid a line, csv and parquet with a column of them, npy, raw words.

An npy file may hold the uids as words, in pairs of dtype "u8,u8" or in two columns, or as strings of hex.
"""

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from harness import npy, uid
from harness.errors import ArtifactError, ConfigError, shortened
from harness.files import open_file
from harness.uid import Uids

Format = Literal["npy", "raw", "parquet", "csv", "text"]
FORMATS: dict[str, Format] = {
    ".npy": "npy", ".bin": "raw", ".raw": "raw", ".memmap": "raw",
    ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "text", "": "text",
}  # fmt: skip
ROWS = 1 << 20


def read(path: str, *, format: Format | None = None, column: str = "uid") -> Iterator[Uids]:
    """The uids in `path`, in its order, in pieces; the format is that of the extension unless given.

    `raw` is a memory-mapped array of dtype "u8,u8" without a header. Raises ArtifactError with file and row for
    what is not a uid.
    """
    kind = format or FORMATS.get(os.path.splitext(path)[1].lower())
    if kind is None:
        raise ConfigError(
            f"setting format: what {path} holds cannot be told from its name; give format=npy|raw|parquet|csv|text"
        )
    if not Path(path).exists():
        raise ArtifactError(f"{path}: no such file")
    if kind == "npy" and (texts := _texts(path)) is not None:
        return _from_hex(path, texts)
    if kind in ("npy", "raw"):
        return uid.blocks(_npy(path) if kind == "npy" else _raw(path))
    return _from_hex(path, {"parquet": _parquet, "csv": _csv}.get(kind, _text)(path, column))


def _texts(path: str) -> Iterator[list[str]] | None:
    """The strings of an npy file of strings or bytes of fixed width; None if it holds something else."""
    found = npy.header(path)
    if len(found.shape) != 1 or not re.fullmatch(r"[<>|][US]\d{1,4}", str(found.descr)):
        return None
    array = npy.load(path, dtype=np.dtype(found.descr), ndim=1)
    # As bytes are in Latin-1, whatever is no uid is told as it stands.
    return (
        np.char.decode(part, "latin-1").tolist() if part.dtype.kind == "S" else part.tolist()
        for part in (array[start : start + ROWS] for start in range(0, len(array), ROWS))
    )


def _npy(path: str) -> Uids:
    """The uids of an npy file of words: the first of the two is the upper half, as in the bytes of dtype "u8,u8"."""
    found = npy.header(path)
    words = np.dtype("<u8")
    if found.descr == words.str and found.shape[1:] == (2,) and not found.fortran:
        return npy.load(path, dtype=words, ndim=2).view(uid.UID_DTYPE).reshape(-1)
    if found.descr != np.lib.format.dtype_to_descr(uid.UID_DTYPE) or len(found.shape) != 1:
        raise ArtifactError(
            f"{path}: dtype {str(found.descr)[:60]}, shape {str(found.shape)[:60]}, but uids are one-dimensional with "
            "dtype u8,u8, or (N, 2) of uint64 in C order, or strings of 32 hex characters"
        )
    return uid.load(path)


def _raw(path: str) -> Uids:
    size = os.path.getsize(path)
    if not size or size % uid.UID_DTYPE.itemsize:
        raise ArtifactError(f"{path}: {size} bytes are no whole number of uids of 16 bytes")
    found: Uids = np.memmap(path, uid.UID_DTYPE, "r")
    return found


def _parquet(path: str, column: str) -> Iterator[list[str]]:
    try:
        file = pq.ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise ArtifactError(f"{path}: no column {column!r} (there are: {', '.join(file.schema_arrow.names)})")
        for batch in file.iter_batches(ROWS, columns=[column]):
            yield batch.column(0).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: not a readable parquet file: {error}") from error


def _csv(path: str, column: str) -> Iterator[list[str]]:
    """A csv file with a header line that names `column`."""
    with open_file(path) as file:
        header = file.readline().decode("utf-8-sig", errors="replace")
    delimiter = "\t" if path.endswith(".tsv") else ","
    options = pa.csv.ParseOptions(delimiter=delimiter)
    try:
        names = pa.csv.read_csv(io.BytesIO(header.encode()), parse_options=options)
        if column not in names.column_names:
            raise ArtifactError(
                f"{path}: no column {column!r} in its first line (there are: {', '.join(names.column_names)})"
            )
        reader = pa.csv.open_csv(
            path,
            parse_options=options,
            convert_options=pa.csv.ConvertOptions(include_columns=[column], column_types={column: pa.string()}),
        )
        for batch in reader:
            yield batch.column(0).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: not a readable csv file: {error}") from error


def _text(path: str, column: str) -> Iterator[list[str]]:
    """One uid a line; empty lines at the end do not count."""
    # Spreadsheets begin a file with a byte order mark, which utf-8-sig leaves out.
    with io.TextIOWrapper(cast("io.BufferedReader", open_file(path)), "utf-8-sig", "replace", newline="\n") as file:
        lines = _up_to_the_last(line.strip() for line in file)
        while chunk := list(itertools.islice(lines, ROWS)):
            yield chunk


def _up_to_the_last(lines: Iterable[str]) -> Iterator[str]:
    """`lines` without the empty ones at the end."""
    empty = 0
    for line in lines:
        if line:
            yield from itertools.repeat("", empty)
            yield line
            empty = 0
        else:
            empty += 1


def _from_hex(path: str, pieces: Iterator[list[str]]) -> Iterator[Uids]:
    done = 0
    for piece in pieces:
        texts = [str(text) for text in piece]
        try:
            yield uid.from_hex(texts)
        except ArtifactError as error:
            row = next(i for i, text in enumerate(texts) if not _is_uid(text))
            raise ArtifactError(
                f"{path}: row {done + row}: {shortened(piece[row])} is not a uid of 32 lower-case hex characters"
            ) from error
        done += len(texts)


def _is_uid(text: str) -> bool:
    return len(text) == 32 and all(character in "0123456789abcdef" for character in text)
