"""What a model answered on a task, stored so that every metric can be recomputed without it.

One parquet file a task, one row a sample (retrieval: a query), the columns that its function in harness.eval.metrics
takes, and `key`:

    classification, wilds, fairness   target; top (five classes, best first, -1 where there are fewer); metadata
    faces                             predicted (race, gender, age, toxic); metadata
    retrieval                         query_is_image; top (ten indices); first, last: the positives lie between them
    winogavil                         candidates; chosen, associated (indices of candidates, padded with -1)
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ArtifactError
from harness.eval.metrics import Columns
from harness.files import atomic_path

Array = npt.NDArray[Any]


def digest(keys: Sequence[str], columns: Columns) -> str:
    """sha256 (hex) of the content, whatever the version of the file format that it is written in."""
    state = hashlib.sha256("\0".join(keys).encode())
    for name in sorted(columns):
        values = np.ascontiguousarray(columns[name], dtype="<i8")
        state.update(f"\0{name} {values.shape}".encode())
        state.update(values.tobytes())
    return state.hexdigest()


def write(path: Path, keys: Sequence[str], columns: Columns) -> None:
    """Write the columns (N,) or (N, K), integers or truth values, atomically."""
    # From buffers, as pa.array of what is not Arrow's imports pandas, where it is installed, for nothing.
    encoded = [key.encode() for key in keys]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    arrays = [pa.StringArray.from_buffers(len(keys), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))]
    for values in columns.values():
        flat, truth = values.reshape(-1), values.dtype == bool
        buffer = pa.py_buffer(np.packbits(flat, bitorder="little") if truth else flat.astype("<i8"))
        column = pa.Array.from_buffers(pa.bool_() if truth else pa.int64(), flat.size, [None, buffer])
        arrays.append(column if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(column, values.shape[1]))
    with atomic_path(path) as temporary:
        table = pa.Table.from_arrays(arrays, names=["key", *columns])
        pq.write_table(table, temporary, compression="zstd")


def read(path: Path) -> tuple[list[str], dict[str, Array]]:
    """Keys and columns; ArtifactError if the file is missing or is not such a table."""
    try:
        table = pq.read_table(path)
        if not pa.types.is_string(table["key"].type) or any(column.null_count for column in table.columns):
            raise ValueError("its keys are not texts, or values are missing")
        keys = table["key"].to_pylist()
        columns = {name: _array(table[name].combine_chunks()) for name in table.column_names if name != "key"}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; predictions are needed to recompute metrics") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: not a readable table of predictions: {error}") from error
    return keys, columns


def _array(column: Any) -> Array:
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    if values.null_count or not (pa.types.is_int64(values.type) or pa.types.is_boolean(values.type)):
        raise ValueError(f"a column of {column.type} is none of predictions")
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, column.type.list_size)
