"""A small pool of real JPEG tars, sealed, for the tests of training."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pool_folders import write_tar

from harness import executor
from harness.config import RunConfig, load_scale
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.subset import Subset

SHARDS, ROWS = 4, 24
COLOURS = ["red", "green", "blue"]


def picture(rng: np.random.Generator, colour: int, side: int) -> bytes:
    pixels = rng.integers(0, 90, (side, side + 4, 3))
    pixels[..., colour] += 150
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_pool(root: Path, *, shards: int = SHARDS, rows: int = ROWS, seed: int = 0) -> None:
    """Shards only: training reads no metadata."""
    rng = np.random.default_rng(seed)
    for shard in range(shards):
        samples = []
        for row in range(rows):
            key, colour = f"{shard:08d}{row:04d}", int(rng.integers(3))
            samples.append({
                f"{key}.jpg": picture(rng, colour, int(rng.integers(33, 48))),
                f"{key}.txt": f"a {COLOURS[colour]} square, number {row}".encode(),
                f"{key}.json": json.dumps({"uid": rng.bytes(16).hex()}).encode(),
            })  # fmt: skip
        write_tar(root / "shards" / f"{shard:08d}.tar", samples)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedPool:
    root = tmp_path_factory.mktemp("pool")
    write_pool(root)
    return seal(str(root), executor=executor.local(1))


@pytest.fixture
def subset(sealed: SealedPool) -> Subset:
    """Two of three samples, some of them twice."""
    rows = np.arange(0, len(sealed), 3)
    return Subset.of(np.concatenate([sealed.uids[rows], sealed.uids[rows + 1], sealed.uids[rows[:10]]]))


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    """Five steps with the tiny model on the CPU, the last of 8; keywords change the scale or `train`."""

    def make(*, train: dict[str, Any] | None = None, seed: int = 0, wandb: str = "off", **scale: Any) -> RunConfig:
        numbers = load_scale("tiny").model_dump() | {"samples_seen": 72, "batch_size": 16, "warmup_steps": 2}
        return RunConfig.model_validate({
            "scale": numbers | scale, "method": {"name": "no_filter"}, "seed": seed, "wandb": wandb,
            "train": {"device": "cpu"} | (train or {}),
        })  # fmt: skip

    return make
