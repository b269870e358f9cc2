"""The helpers beside these tests are importable, and no test touches the user's cache."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
