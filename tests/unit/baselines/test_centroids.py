"""Centroids and nearest neighbours: made, read, fetched."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from metadata_pool import WIDTHS, write_metadata
from threadpoolctl import threadpool_limits

from baselines import _targets
from harness import Pool, centroids, executor
from harness.errors import ArtifactError
from harness.nearest import nearest, nearest_and_product
from harness.pool import view


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_metadata(tmp_path_factory.mktemp("pool"), (70, 55, 30))


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_nearest_is_the_largest_product_across_blocks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.nearest._BLOCK", 64)
    monkeypatch.setattr("harness.nearest._CENTROIDS", 7)
    rng = np.random.default_rng(0)
    features = rng.integers(-3, 4, (rows, 5)).astype(np.float16)
    points = rng.integers(-3, 4, (40, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        nearest(features, points), (features.astype(np.float32) @ points.T).argmax(axis=1) if rows else []
    )


def test_nearest_is_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features, points = rng.normal(size=(1500, 96)).astype(np.float16), rng.normal(size=(300, 96)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        with threadpool_limits(threads, user_api="blas"):
            found.append(nearest_and_product(features, points)[1].tobytes())
    assert len(set(found)) == 1


def test_centroids_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.npy"
    centroids.command([f"pool.path={folder}", f"out={out}", "clusters=4", "captions=all"])
    first = np.load(out)
    assert first.shape == (4, WIDTHS["l14_img"]) and first.dtype == np.float32
    centroids.command([f"pool.path={folder}", f"out={out}", "clusters=4", "captions=all", "sample=0.8"])
    assert not np.array_equal(first, np.load(out))


@pytest.mark.parametrize("wrong", [None, "no uid", "g" * 32])
@pytest.mark.parametrize("inline", [True, False])
def test_centroids_of_a_sample_name_the_row_whose_uid_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str | None, inline: bool
) -> None:
    monkeypatch.setattr(view, "INLINE_ROWS", 1000 if inline else 0)
    folder = write_metadata(tmp_path / "pool", (5, 4))
    path = sorted((folder / "metadata").glob("*.parquet"))[1]
    table = pq.read_table(path)
    uids = [wrong, *table["uid"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("uid"), "uid", [uids]), path)
    workers = executor.local(2)
    try:
        with pytest.raises(ArtifactError) as caught:
            centroids.of_pool(Pool.open(folder, executor=workers), captions="all", clusters=2, sample=0.5)
    finally:
        workers.close()
    assert str(caught.value) == f"{path}: row 0: {wrong!r} is not a uid of 32 lower-case hex characters"


def test_the_rows_of_a_sample_hang_on_their_first_uid_alone() -> None:
    first = "8f" * 16
    table, rows = pa.table({"uid": [first] + ["0" * 32] * 19}), np.arange(20, dtype=np.float32)[:, None]
    drawn = np.random.default_rng([3, int(first[:16], 16)]).random(20) < 0.4
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())):
        typed = table.set_column(0, "uid", table["uid"].cast(kind))
        np.testing.assert_array_equal(centroids._rows(None, "k", 0.4, 3, typed, {"k": rows}), rows[drawn])


@pytest.mark.parametrize(("out", "said"), [("file/c.npy", "a file stands where"), ("folder", "a folder stands where")])
def test_centroids_that_cannot_be_written_are_not_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    monkeypatch.setattr(centroids, "of_pool", None)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=f"{tmp_path / out}: {said}"):
        centroids.command([f"pool.path={folder}", f"out={tmp_path / out}"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_published_centroids_are_read_without_unpickling(tmp_path: Path, protocol: int) -> None:
    points = np.random.default_rng(0).normal(size=(5, _targets.WIDTH)).astype(np.float32)
    # As torch.save writes an array: a pickle in a zip.
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("c/data.pkl", pickle.dumps(points, protocol=protocol))
        archive.writestr("c/version", "3")
    if protocol == 2:  # holds its bytes as text, which is not what was published
        with pytest.raises(ValueError, match="empty"):
            _targets._pickled_array(tmp_path / "c.pt")
    else:
        np.testing.assert_array_equal(_targets._pickled_array(tmp_path / "c.pt"), points)
