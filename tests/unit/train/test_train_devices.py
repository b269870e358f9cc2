"""Training on a CPU and on a GPU: the same tests; `pytest -m gpu` runs those that need one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.audit import audit
from harness.config import RunConfig
from harness.device import pick
from harness.pool.sealed import SealedPool
from harness.subset import Subset
from harness.train.learner import Learner
from harness.train.run import train
from harness.train.world import World

Config = Callable[..., RunConfig]
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
WITHIN = {"fp32": 1e-3, "amp_bfloat16": 0.05, "amp": 0.01}
"""Of losses near 3: on a GPU fp32 multiplies as TF32, with a mantissa of 10 bits like fp16's; that of bf16 has 7."""


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("precision", WITHIN)
@pytest.mark.parametrize("slices", [1, 2])
def test_losses_are_near_those_of_a_cpu_in_fp32(device: str, precision: str, slices: int, make_config: Config) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((16, 3, 32, 32), generator=generator)
    tokens = torch.randint(1, 40_000, (16, 32), generator=generator)
    tokens[:, 20] = 49_407

    def losses(device: str, precision: str) -> list[float]:
        world = World(rank=0, size=1, device=pick(device, setting="train.device"))
        learner = Learner(make_config(precision=precision), world)
        batch = [
            (part.to(world.device), words.to(world.device))
            for part, words in zip(images.chunk(slices), tokens.chunk(slices), strict=True)
        ]
        return [float(learner.step(number, batch)) for number in range(5)]

    found = losses(device, precision)
    assert found == pytest.approx(losses("cpu", "fp32"), abs=WITHIN[precision])
    assert found[-1] < found[0]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"grad_checkpointing": True}])
def test_a_run_is_accounted_for(
    device: str, settings: dict[str, Any], make_config: Config, sealed: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    subset.save(tmp_path / "uids.npy")
    config = make_config(precision="amp_bfloat16", train={"device": device, **settings})
    record = train(config, sealed=sealed, subset=subset, out=tmp_path / "train")
    assert record.payload["samples_seen"] == 72
    assert record.provenance["device"].startswith("NVIDIA" if device == "cuda" else "cpu")
    assert audit(tmp_path) == []
