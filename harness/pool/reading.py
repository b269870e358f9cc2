"""Reading metadata files: stretches of rows as methods get them, only the columns and row groups that are needed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import uid
from harness.errors import ArtifactError
from harness.files import is_remote, open_file
from harness.pool.features import FeatureFile
from harness.uid import Uids

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Ranges = Mapping[str, tuple[float | None, float | None]]
"""Column name to the least and the greatest value wanted, both included; None: open."""


@dataclass(frozen=True)
class MetadataFile:
    """One metadata file, and which of its rows are visible."""

    path: str
    rows: int
    mask: bytes | None = None
    """np.packbits of the visible rows; None: all."""

    @property
    def visible(self) -> Mask | None:
        """(rows,) or None where all rows are visible."""
        if self.mask is None:
            return None
        return np.unpackbits(np.frombuffer(self.mask, np.uint8), count=self.rows).astype(bool)

    @property
    def count(self) -> int:
        """Number of visible rows."""
        visible = self.visible
        return self.rows if visible is None else int(visible.sum())


@dataclass(frozen=True)
class Stretch:
    """Visible rows of a stretch of one file."""

    table: pa.Table
    """The columns asked for, one chunk each; null captions are ""."""
    features: dict[str, Array]
    """Embeddings of the same rows, (rows, width) each."""
    file: MetadataFile
    start: int
    """Row in the file where the stretch begins."""
    keep: Mask | None
    """Which rows of the stretch the table holds; None: all."""

    def row(self, place: int) -> int:
        """Row in the file of the table's row `place`."""
        return self.start + (place if self.keep is None else int(np.flatnonzero(self.keep)[place]))

    def uids(self, keep: Mask | None = None) -> Uids:
        """The uids of the rows where `keep` is true. ArtifactError with file and row for one that is not a uid."""
        column = self.table.column("uid")
        if keep is not None:
            column = column.filter(pa.array(keep))
        found, wrong = _from_strings(column)
        if wrong >= 0:
            place = wrong if keep is None else int(np.flatnonzero(keep)[wrong])
            raise ArtifactError(
                f"{self.file.path}: row {self.row(place)}: {column[wrong].as_py()!r} is not a uid of 32 lower-case "
                "hex characters"
            )
        return found


def _from_strings(column: pa.ChunkedArray) -> tuple[Uids, int]:
    """The uids of a column of strings, and the place of the first that is none, or -1."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    parts, done = [np.empty(0, uid.UID_DTYPE)], 0
    for array in column.cast(pa.string()).chunks:
        if not len(array):
            continue
        lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
        wrong = int(np.argmax(lengths != 32))
        if lengths[wrong] == 32:
            first = int(np.frombuffer(array.buffers()[1], np.int32)[array.offset])
            part, wrong = uid.from_characters(
                np.frombuffer(array.buffers()[2], np.uint8, count=32 * len(array), offset=first)
            )
            parts.append(part)
        if wrong >= 0:
            return parts[0], done + wrong
        done += len(array)
    return np.concatenate(parts), -1


def open_parquet(path: str) -> pq.ParquetFile:
    """The parquet file `path`; ArtifactError if it is missing or not one."""
    try:
        if is_remote(path):
            return pq.ParquetFile(open_file(path), pre_buffer=True)
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: not a readable parquet file: {error}") from error


def missing_column(path: str, name: str, there: Sequence[str]) -> ArtifactError:
    """The error for a column that something needs and `path` has not."""
    return ArtifactError(f"{path}: no column {name!r} (there are: {', '.join(there)})")


def stretches(
    file: MetadataFile,
    *,
    columns: Sequence[str] = (),
    features: Sequence[str] = (),
    within: Ranges | None = None,
    rows: int | None = None,
) -> Iterator[Stretch]:
    """The rows of `file` that are visible and `within` the ranges, in stretches of at most `rows` file rows.

    Row groups whose statistics lie outside the ranges are not read. Stretches with no row left are not given.
    Raises ArtifactError naming the file and what is missing in it.
    """
    within = within or {}
    wanted = list(dict.fromkeys([*columns, *within]))
    parquet = open_parquet(file.path)
    for name in wanted:
        if name not in parquet.schema_arrow.names:
            raise missing_column(file.path, name, parquet.schema_arrow.names)
    visible = file.visible
    with ExitStack() as stack:
        stack.enter_context(parquet)
        embeddings = None
        if features:
            npz = file.path.removesuffix(".parquet") + ".npz"
            embeddings = stack.enter_context(FeatureFile(npz, features, file.rows))
        try:
            for start, table in _tables(parquet, wanted, within, rows):
                keep = _inside(table, within, file)
                if visible is not None:
                    seen = visible[start : start + table.num_rows]
                    keep = seen if keep is None else keep & seen
                if keep is not None and not keep.any():
                    continue
                arrays = embeddings.read(start, start + table.num_rows) if embeddings else {}
                if keep is not None and keep.all():
                    keep = None
                if keep is not None:
                    table = table.filter(pa.array(keep))
                    arrays = {name: array[keep] for name, array in arrays.items()}
                if table.num_rows:
                    yield Stretch(_prepared(table), arrays, file, start, keep)
        except (pa.ArrowInvalid, OSError) as error:
            raise ArtifactError(f"{file.path}: not a readable parquet file: {error}") from error


def _tables(
    parquet: pq.ParquetFile, columns: Sequence[str], within: Ranges, rows: int | None
) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) of the stretches that may hold rows within the ranges."""
    start = 0
    if rows is None:
        yield 0, _read(parquet.read(list(columns), use_threads=False), parquet.metadata.num_rows)
        return
    for group in range(parquet.num_row_groups):
        size = parquet.metadata.row_group(group).num_rows
        if _may_match(parquet.metadata.row_group(group), within):
            at = start
            if not columns:
                for at in range(start, start + size, rows):
                    yield at, _read(None, min(rows, start + size - at))
            else:
                for batch in parquet.iter_batches(rows, row_groups=[group], columns=list(columns), use_threads=False):
                    yield at, pa.Table.from_batches([batch])
                    at += batch.num_rows
        start += size


def _read(table: pa.Table | None, rows: int) -> pa.Table:
    # A table of no column has no rows; a column of nothing keeps their number.
    return table if table is not None and table.num_columns else pa.table({"row": pa.nulls(rows)})


def _may_match(group: pq.RowGroupMetaData, within: Ranges) -> bool:
    for place in range(group.num_columns):
        column = group.column(place)
        low, high = within.get(column.path_in_schema, (None, None))
        known = column.statistics
        if (low is None and high is None) or known is None or not known.has_min_max:
            continue
        least, greatest = known.min, known.max
        # float32 statistics are compared with a limit rounded as the values are: leave a margin of one step.
        if low is not None and greatest < low - abs(low) * 1e-6:
            return False
        if high is not None and least > high + abs(high) * 1e-6:
            return False
    return True


def _inside(table: pa.Table, within: Ranges, file: MetadataFile) -> Mask | None:
    """Rows with low <= value <= high in each range, in the column's own precision; NaN and null are outside."""
    keep: Mask | None = None
    for name, (low, high) in within.items():
        values = numbers(table, name, file)
        own = values.dtype.type if values.dtype.kind == "f" else float
        for inside in ([values >= own(low)] if low is not None else []) + (
            [values <= own(high)] if high is not None else []
        ):
            keep = inside if keep is None else keep & inside
    return keep


def numbers(table: pa.Table, column: str, file: MetadataFile) -> Array:
    """The values of a column of numbers; NaN for null. ArtifactError if it holds something else."""
    values: Array = table.column(column).to_numpy()
    if values.dtype.kind not in "fiu":
        raise ArtifactError(f"{file.path}: column {column!r} has type {table.column(column).type}, expected numbers")
    return values


def _prepared(table: pa.Table) -> pa.Table:
    if "text" in table.column_names:
        text = table.column("text")
        if pa.types.is_dictionary(text.type):
            text = text.cast(text.type.value_type)
        if pa.types.is_null(text.type):
            text = text.cast(pa.string())
        table = table.set_column(table.column_names.index("text"), "text", pc.fill_null(text, ""))
    return table.combine_chunks()
