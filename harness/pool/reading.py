"""Reading metadata files: stretches of rows as methods get them, only the columns and row groups that are needed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from harness.files import is_remote, join, open_file
from harness.pool.features import FeatureFile
from harness.progress import say
from harness.uid import Uids

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
DUPLICATE_COLUMNS = ("sha256", "phash", "exact", "near", "similar")
"""What `harness.duplicates` adds to the metadata, in files beside the seal; a column of the metadata comes first."""
Ranges = Mapping[str, tuple[float | None, float | None]]
"""Column name to the least and the greatest value wanted, both included; None: open."""


@dataclass(frozen=True)
class MetadataFile:
    """One metadata file, and which of its rows are visible."""

    path: str
    rows: int
    mask: bytes | None = None
    """np.packbits of the visible rows; None: all."""
    beside: str | None = None
    """Parquet file of more columns, with the same rows in the same row groups."""

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
        found, wrong = from_strings(column)
        if wrong >= 0:
            place = wrong if keep is None else int(np.flatnonzero(keep)[wrong])
            raise uid.NotUidError(
                f"{self.file.path}: row {self.row(place)}: {column[wrong].as_py()!r} is not a uid of 32 lower-case "
                "hex characters"
            )
        return found


def from_strings(column: pa.ChunkedArray) -> tuple[Uids, int]:
    """The uids of a column of strings, and the place of the first that is none, or -1."""
    column = _plain(column)
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


def columns_of(path: str) -> list[str]:
    """Names of the columns of the parquet file `path`, in its order; ArtifactError if it is missing or not one."""
    return list(open_parquet(path).schema_arrow.names)


def require_rows(pool: str, files: Sequence[MetadataFile], pairs: int) -> None:
    """Warn where not each of the `pairs` that are there has a visible row; ArtifactError where none has one."""
    rows, metadata = sum(file.count for file in files), join(pool, "metadata")
    if rows < pairs:
        if not rows:
            raise ArtifactError(
                f"{metadata}: no row has the uid of a pair in the tars; put the pool's own metadata there"
            )
        say(f"warning: {metadata}: no row for {pairs - rows:,} of {pairs:,} pairs in the tars; they cannot be chosen")


def require_once(path: str, columns: Iterable[str], there: Sequence[str]) -> None:
    """ArtifactError if several of the columns that are `there` have the name of one of `columns`."""
    for name in columns:
        if there.count(name) > 1:
            raise ArtifactError(f"{path}: {there.count(name)} columns are called {name!r}; keep one of them")


def missing_column(path: str, name: str, there: Sequence[str]) -> ArtifactError:
    """The error for a column that something needs and `path` has not."""
    remedy = ""
    if name.startswith("clip_") and name.endswith("_similarity_score"):
        remedy = "; `python -m harness.score` makes scores"
    elif name == "similar":
        remedy = "; `python -m harness.duplicates` with features=l14_img makes it"
    elif name in DUPLICATE_COLUMNS:
        remedy = "; `python -m harness.duplicates` makes it for a sealed pool"
    return ArtifactError(f"{path}: no column {name!r} (there are: {', '.join(there)}){remedy}")


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
    sources = _sources(file, parquet, wanted)
    within = _rounded(within, sources, file)
    visible = file.visible
    with ExitStack() as stack:
        for source, _ in sources:
            stack.enter_context(source)
        embeddings = None
        if features:
            npz = file.path.removesuffix(".parquet") + ".npz"
            embeddings = stack.enter_context(FeatureFile(npz, features, file.rows))
        try:
            for start, table in _tables(sources, wanted, within, rows):
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


Sources = list[tuple[pq.ParquetFile, list[str]]]
"""The metadata file and perhaps the one beside it, and the columns that come from each."""


def _sources(file: MetadataFile, parquet: pq.ParquetFile, wanted: Sequence[str]) -> Sources:
    own = parquet.schema_arrow.names
    require_once(file.path, wanted, own)
    more = [name for name in wanted if name not in own]
    sources = [(parquet, [name for name in wanted if name in own])]
    if more and file.beside is not None:
        sources.append((open_parquet(file.beside), more))
    there = [name for source, _ in sources for name in source.schema_arrow.names]
    for name in more:
        if name not in there:
            raise missing_column(file.path, name, there)
    require_strings(file, parquet.schema_arrow, wanted)
    if len({tuple(_group_sizes(source)) for source, _ in sources}) > 1:
        raise ArtifactError(
            f"{file.beside}: does not fit {file.path}; run `python -m harness.duplicates` on the pool again"
        )
    return sources


def _rounded(within: Ranges, sources: Sources, file: MetadataFile) -> Ranges:
    """The ranges with limits in the precision of their columns; ArtifactError if one does not hold numbers."""
    kinds = {name: source.schema_arrow.field(name).type for source, names in sources for name in names}
    rounded: dict[str, tuple[float | None, float | None]] = {}
    for name, (low, high) in within.items():
        _require_numbers(kinds[name], name, file)
        own = kinds[name].to_pandas_dtype() if pa.types.is_floating(kinds[name]) else float
        with np.errstate(over="ignore"):
            rounded[name] = (None if low is None else float(own(low)), None if high is None else float(own(high)))
    return rounded


def _group_sizes(parquet: pq.ParquetFile) -> list[int]:
    return [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]


def _tables(
    sources: Sources, wanted: Sequence[str], within: Ranges, rows: int | None
) -> Iterator[tuple[int, pa.Table]]:
    """(first row, table) of the stretches that may hold rows within the ranges."""
    parquet, start = sources[0][0], 0
    sources = [(source, columns) for source, columns in sources if columns]
    if rows is None:
        tables = [source.read(columns, use_threads=False) for source, columns in sources]
        yield 0, _joined(tables, wanted, parquet.metadata.num_rows)
        return
    for group, size in enumerate(_group_sizes(parquet)):
        if _may_match(parquet.metadata.row_group(group), within):
            at = start
            if not wanted:
                for at in range(start, start + size, rows):
                    yield at, _joined([], wanted, min(rows, start + size - at))
            else:
                batches = [
                    source.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
                    for source, columns in sources
                ]
                for parts in zip(*batches, strict=True):
                    tables = [pa.Table.from_batches([part]) for part in parts]
                    yield at, _joined(tables, wanted, tables[0].num_rows)
                    at += tables[0].num_rows
        start += size


def _joined(tables: list[pa.Table], wanted: Sequence[str], rows: int) -> pa.Table:
    """The columns `wanted` of the tables side by side."""
    # A table of no column has no rows; a column of nothing keeps their number.
    if not wanted:
        return pa.table({"row": pa.nulls(rows)})
    columns = {name: table.column(name) for table in tables for name in table.column_names}
    return pa.table({name: _without_view(columns[name]) for name in wanted})


def _without_view(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of views as one of plain strings or bytes: pyarrow cannot filter views."""
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def _may_match(group: pq.RowGroupMetaData, within: Ranges) -> bool:
    for place in range(group.num_columns):
        column = group.column(place)
        low, high = within.get(column.path_in_schema, (None, None))
        known = column.statistics
        if (low is None and high is None) or known is None or not known.has_min_max:
            continue
        least, greatest = known.min, known.max
        if isinstance(least, bytes):  # float16
            least, greatest = (float(np.frombuffer(end, "<f2")[0]) for end in (least, greatest))
        if (low is not None and greatest < low) or (high is not None and least > high):
            return False
    return True


def _inside(table: pa.Table, within: Ranges, file: MetadataFile) -> Mask | None:
    """Rows with low <= value <= high in each range; NaN and null are outside."""
    keep: Mask | None = None
    for name, (low, high) in within.items():
        values = numbers(table, name, file)
        inside = ~np.isnan(values)
        if low is not None:
            inside &= values >= low
        if high is not None:
            inside &= values <= high
        keep = inside if keep is None else keep & inside
    return keep


def numbers(table: pa.Table, column: str, file: MetadataFile) -> Array:
    """The values of a column of numbers; NaN for null. ArtifactError if it holds something else."""
    _require_numbers(table.column(column).type, column, file)
    values: Array = table.column(column).to_numpy()
    return np.full(len(values), np.nan, np.float32) if values.dtype.hasobject else values


def _require_numbers(kind: pa.DataType, column: str, file: MetadataFile) -> None:
    # A column of nulls alone has no type: pandas writes it so, in empty files too.
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise not_numbers(file.path, column, kind)


def not_numbers(path: str, column: str, kind: object) -> ArtifactError:
    """The error for a column of `path` that holds something else where numbers are needed."""
    return ArtifactError(f"{path}: column {column!r} has type {kind}, expected numbers")


def require_strings(file: MetadataFile, schema: pa.Schema, columns: Iterable[str]) -> None:
    """ArtifactError if one of `columns` that methods take as strings holds something else."""
    fitting = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    for name in {"uid", "text"}.intersection(columns, schema.names):
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(fits(kind) for fits in fitting):
            raise ArtifactError(f"{file.path}: column {name!r} has type {kind}, expected strings")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without its dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _prepared(table: pa.Table) -> pa.Table:
    if "text" in table.column_names:
        text = _plain(table.column("text"))
        if pa.types.is_null(text.type):
            text = text.cast(pa.string())
        table = table.set_column(table.column_names.index("text"), "text", pc.fill_null(text, ""))
    return table.combine_chunks()
