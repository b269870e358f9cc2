"""Embeddings beside the metadata: read in stretches, and what is wrong with them is named."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from metadata_pool import SIZES, every, sealed, write_features, write_metadata

from harness import Pool
from harness.errors import ArtifactError


def test_map_in_stretches_gives_features_of_the_same_rows(pool: Pool, folder: Path) -> None:
    found = pool.map(lambda table, features: (table["uid"].to_pylist(), np.array(features["l14_img"])),
                     columns=["uid"], features=["l14_img"], rows=7)  # fmt: skip
    assert all(len(uids) == len(rows) <= 7 for uids, rows in found)
    assert [text for uids, _ in found for text in uids] == every()
    wanted = [np.load(path)["l14_img"] for path in sorted((folder / "metadata").glob("*.npz"))]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), np.concatenate(wanted))
    np.testing.assert_array_equal(np.concatenate(list(pool.features("l14_img"))), np.concatenate(wanted))


def test_features_of_other_length_shape_or_kind_are_refused(folder: Path) -> None:
    path = folder / "metadata" / f"{1:032x}.npz"
    write_features(path, SIZES[1] + 1, 0)
    with pytest.raises(ArtifactError, match=rf"{path}: array 'b32_img' has 26 rows, its parquet file 25"):
        list(Pool.open(folder).features("b32_img"))
    np.savez(path, b32_img=np.arange(25))
    with pytest.raises(ArtifactError, match="two-dimensional floats"):
        list(Pool.open(folder).features("b32_img"))
    path.write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match=rf"{path}: not a readable npz file"):
        list(Pool.open(folder).features("b32_img"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compressed", [False, True])
def test_float32_and_compressed_features_are_read(tmp_path: Path, dtype: type, compressed: bool) -> None:
    write_metadata(tmp_path, (30,), features=False)
    path = tmp_path / "metadata" / f"{0:032x}.npz"
    write_features(path, 30, 0, dtype=dtype, compressed=compressed)
    pool = Pool.open(tmp_path, sealed=sealed(tmp_path, every((30,))[::2]))
    found = pool.map(lambda table, features: features["l14_txt"], features=["l14_txt"], rows=4)
    np.testing.assert_array_equal(np.concatenate(found), np.load(path)["l14_txt"][::2])
    assert found[0].dtype == dtype


def test_compressed_features_that_are_damaged_are_named(tmp_path: Path) -> None:
    write_metadata(tmp_path, (3000,), features=False)
    path = tmp_path / "metadata" / f"{0:032x}.npz"
    write_features(path, 3000, 0, compressed=True)
    content = bytearray(path.read_bytes())
    content[2000:2040] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{path}: not a readable npz file: .*; download it again"):
        list(Pool.open(tmp_path).features("b32_img"))


@pytest.mark.parametrize("place", [b"PK\x01\x02", b"l14_txt.npy"])
@pytest.mark.parametrize("compressed", [False, True])
def test_features_that_are_damaged_anywhere_are_named(tmp_path: Path, compressed: bool, place: bytes) -> None:
    write_metadata(tmp_path, (30,), features=False)
    path = tmp_path / "metadata" / f"{0:032x}.npz"
    write_features(path, 30, 0, compressed=compressed)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    begin, damaged = whole.index(place), 0
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(begin, min(begin + 100, len(whole)), size=3):
            content[at] = int(rng.integers(256))
        path.write_bytes(content)
        try:
            with warnings.catch_warnings(action="ignore"):  # NumPy's, of headers from Python 2
                list(Pool.open(tmp_path).features("l14_txt"))
        except ArtifactError as error:
            assert str(error).startswith(f"{path}: "), error
            damaged += 1
    assert damaged > 20
