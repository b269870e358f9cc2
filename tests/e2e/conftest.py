"""A miniature contest: a generated pool of a few hundred pairs, the stand-in task sets, one task of each kind."""

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import LONG

ONE_OF_EACH_KIND = [
    "cifar10",
    "retrieval/flickr_1k_test_image_text_retrieval",
    "misc/winogavil",
    "wilds/fmow",
    "fairness/dollar_street",
]


@pytest.fixture(scope="session")
def mini_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 generated pairs, not sealed yet; copy it before changing it."""
    from harness.tiny.pool import make_pool

    folder = tmp_path_factory.mktemp("pool")
    make_pool(folder, samples=640, seed=3)
    return folder


@pytest.fixture(scope="session")
def mini_settings(mini_pool: Path) -> list[str]:
    """Overrides of a run that takes seconds: 4 steps of 128, one task of each kind."""
    return [
        "scale=tiny",
        f"pool.path={mini_pool}",
        "scale.samples_seen=448",
        "scale.batch_size=128",
        "scale.warmup_steps=2",
        f"eval.tasks=[{','.join(ONE_OF_EACH_KIND)}]",
        "train.workers=0",
        "eval.workers=0",
    ]


def command(*arguments: str, cwd: Path, **more: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m ARGUMENTS` in `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=LONG, **more
    )
