"""Shared by all tests: no network, no user cache, quiet threads."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# How long an example takes, to make or to test, depends on what else the machine does.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the tests' own; what is generated there is kept between runs where pytest has a cache."""
    kept = getattr(request.config, "cache", None)
    folder = tmp_path_factory.mktemp("cache") if kept is None else Path(kept.mkdir("harness"))
    os.environ["DATACOMP_HARNESS_CACHE"] = str(folder)
    return folder


@pytest.fixture
def run_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the test works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def web() -> Iterator[tuple[str, Any]]:
    """A hub and an image server on loopback: its address, and the class that says what it serves."""
    from loopback import served

    with served() as found:
        yield found
