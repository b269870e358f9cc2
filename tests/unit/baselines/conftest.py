"""What methods on planted pools are tested with."""

from pathlib import Path

import numpy as np
import pytest
from planted_pool import context

from harness import SelectionContext


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def ctx(tmp_path: Path) -> SelectionContext:
    return context(tmp_path / "scratch")
