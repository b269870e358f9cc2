"""Reading one column, or the uids of the rows in a range, as fast as the file allows (polars).

Where no function of a method runs, nothing but the wanted rows is decoded: row groups are skipped by their
statistics and uids are built for kept rows only. What polars cannot open, `reading` does; both give the same.
"""

import math
from collections.abc import Iterable

import numpy as np
import polars as pl

from harness import uid
from harness.errors import ArtifactError
from harness.files import is_remote
from harness.pool import reading
from harness.pool.reading import Array, MetadataFile, Ranges
from harness.uid import Uids

ROWS = 1 << 20
"""Rows of a remote file that are decoded at once."""


def values(file: MetadataFile, column: str) -> Array:
    """The visible values of a column of numbers, NaN for null. ArtifactError if it is missing or holds other things."""
    if is_remote(file.path):
        whole = reading.stretches(file, columns=(column,))
        return next((reading.numbers(stretch.table, column, file) for stretch in whole), np.empty(0, np.float32))
    _schema(file, [column], numbers=[column])
    frame = _collected(pl.scan_parquet(file.path, glob=False).select(column), file)
    found: Array = frame[column].to_numpy() if frame.schema[column] != pl.Null else np.full(len(frame), np.nan, "f4")
    return found if file.visible is None else found[file.visible]


def uids(file: MetadataFile, within: Ranges) -> Uids:
    """The uids of the visible rows within the ranges, in the order of the file."""
    if not is_remote(file.path):
        found = _fast_uids(file, within)
        if found is not None:
            return found
    parts = reading.stretches(file, columns=("uid",), within=within, rows=ROWS)
    return np.concatenate([np.empty(0, uid.UID_DTYPE), *(stretch.uids() for stretch in parts)])


def _fast_uids(file: MetadataFile, within: Ranges) -> Uids | None:
    """None where a uid is not one: the slower way finds its row."""
    schema = _schema(file, ["uid", *within], numbers=within)
    rows = pl.scan_parquet(file.path, glob=False)
    visible = file.visible
    if visible is not None:
        rows = rows.with_row_index("row")
    for name, limits in within.items():
        rows = rows.filter(_inside(name, schema[name], *limits))
    frame = _collected(rows.select(pl.col("uid").cast(pl.String), *(["row"] if visible is not None else [])), file)
    texts = frame["uid"]
    if visible is not None:
        texts = texts.filter(pl.Series(visible[frame["row"].to_numpy()]))
    if not len(texts):
        return np.empty(0, uid.UID_DTYPE)
    if texts.null_count() or (texts.str.len_bytes() != 32).any():
        return None
    array = texts.rechunk().to_arrow()
    first = int(np.frombuffer(array.buffers()[1], np.int64)[array.offset])
    characters = np.frombuffer(array.buffers()[2], np.uint8, count=32 * len(array), offset=first)
    found, wrong = uid.from_characters(characters)
    return found if wrong < 0 else None


def _inside(name: str, dtype: pl.DataType, low: float | None, high: float | None) -> pl.Expr:
    """low <= column <= high in the column's own precision; NaN, which polars ranks above all, and null are outside."""
    column = pl.col(name)
    own = dtype if dtype.is_float() else pl.Float64()
    inside = pl.lit(True) if not dtype.is_float() else column.is_not_nan()
    if low is not None and not math.isnan(low):
        inside = inside & (column >= pl.lit(low, own))
    if high is not None and not math.isnan(high):
        inside = inside & (column <= pl.lit(high, own))
    if any(limit is not None and math.isnan(limit) for limit in (low, high)):
        inside = pl.lit(False)
    return inside & column.is_not_null()


def _schema(file: MetadataFile, columns: list[str], *, numbers: Iterable[str]) -> dict[str, pl.DataType]:
    """Types of all columns; ArtifactError unless `columns` are among them and those of `numbers` hold numbers."""
    try:
        schema = pl.read_parquet_schema(file.path)
    except (pl.exceptions.PolarsError, OSError) as error:
        names = reading.columns_of(file.path)
        reading.require_once(file.path, names, names)
        raise ArtifactError(f"{file.path}: not a readable parquet file: {error}") from error
    for name in columns:
        if name not in schema:
            raise reading.missing_column(file.path, name, list(schema))
    if "uid" in columns and schema["uid"] not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise ArtifactError(f"{file.path}: column 'uid' has type {schema['uid']}, expected strings")
    for name in numbers:
        if not (schema[name].is_integer() or schema[name].is_float() or schema[name] == pl.Null):
            raise reading.not_numbers(file.path, name, schema[name])
    return dict(schema)


def _collected(rows: pl.LazyFrame, file: MetadataFile) -> pl.DataFrame:
    try:
        return rows.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtifactError(f"{file.path}: not a readable parquet file: {error}") from error
