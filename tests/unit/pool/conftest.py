from pathlib import Path

import pytest
from pool_folders import write_pool


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool")
