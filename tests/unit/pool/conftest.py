"""A pool of three metadata files, and the view of it."""

from pathlib import Path

import pytest
from metadata_pool import write_metadata

from harness import Pool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_metadata(tmp_path / "pool")


@pytest.fixture
def pool(folder: Path) -> Pool:
    return Pool.open(folder)
