"""Entries made of nothing, shared by the tests of the leaderboard."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic

from harness.entry import write_entry
from harness.entry_schema import About
from harness.pool.sealed import SealedPool
from leaderboard.case import Means


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedPool:
    """A pool of 3,000 random uids."""
    return synthetic.world(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="session")
def run_dirs(sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one uid file."""
    root = tmp_path_factory.mktemp("runs")
    uids = synthetic.subset_of(sealed, keep=0.3)
    return [synthetic.run(root / f"run-{seed}", sealed, uids, seed=seed) for seed in range(2)]


@pytest.fixture(scope="session")
def honest(run_dirs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an entry without fault; not to be changed."""
    folder = tmp_path_factory.mktemp("board") / "tiny" / "honest"
    about = About(
        name="Honest filter", authors=["A. Author"], link="https://example.org/paper", description="Keeps what is good."
    )
    write_entry(run_dirs, folder, about=about)
    return folder


@pytest.fixture
def spoiled(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest entry, to be changed."""
    return Path(shutil.copytree(honest, tmp_path / "tiny" / "spoiled"))


@pytest.fixture(scope="session")
def means(sealed: SealedPool) -> Means:
    """What a maintainer has: the pool."""
    return Means(pool=sealed)


@pytest.fixture
def git(spoiled: Path) -> Callable[..., None]:
    """Runs git on the board of `spoiled`, which is committed on main as it stands."""

    def run(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=spoiled.parents[1], check=True, capture_output=True)

    run("init", "-b", "main")
    run("add", ".")
    run("commit", "-m", "one")
    return run
