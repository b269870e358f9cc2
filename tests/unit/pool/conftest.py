"""A pool of tars to seal; a pool of three metadata files, and the view of it."""

from pathlib import Path

import pytest
from metadata_pool import write_metadata
from pool_folders import write_pool

from harness import Pool


@pytest.fixture
def pool_dir(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_metadata(tmp_path / "pool")


@pytest.fixture
def pool(folder: Path) -> Pool:
    return Pool.open(folder)
