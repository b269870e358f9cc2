"""Stored predictions: what is written is read back, by the means it needs."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import ArtifactError
from harness.eval import predictions

KEYS = ["a", "größe", "", "b/0001"]
COLUMNS = {
    "query_is_image": np.array([True, False, True, True]),
    "top": np.arange(16, dtype=np.int64).reshape(4, 4)[:, 1:3],
    "first": np.array([-1, 2, 3, 4], dtype=np.int32),
    "last": np.arange(8)[::2],
}


def test_what_is_written_is_read_back(tmp_path):
    predictions.write(tmp_path / "p.parquet", KEYS, COLUMNS)
    keys, columns = predictions.read(tmp_path / "p.parquet")
    assert keys == KEYS
    assert list(columns) == list(COLUMNS)
    for name, values in COLUMNS.items():
        np.testing.assert_array_equal(columns[name], values)
    assert predictions.digest(keys, columns) == predictions.digest(KEYS, COLUMNS)


@pytest.mark.parametrize("columns", [
    {"key": ["a"], "target": ["x"]}, {"key": ["a"], "target": [0.5]}, {"key": ["a"], "target": [[[1]]]},
    {"key": [1], "target": [1]}, {"key": ["a", None], "target": [1, 2]}, {"key": ["a", "b"], "target": [1, None]},
    {"target": [1]},
])  # fmt: skip
def test_another_table_is_refused(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(ArtifactError, match=r"p\.parquet: not a readable table of predictions"):
        predictions.read(tmp_path / "p.parquet")


def test_writing_does_not_import_pandas(tmp_path):
    code = (
        "import sys, pathlib, numpy as np\n"
        "from harness.eval import predictions\n"
        f"predictions.write(pathlib.Path({str(tmp_path / 'p.parquet')!r}), ['a'], {{'target': np.array([1])}})\n"
        "assert 'pandas' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
