"""Where the time of training goes, from tars to weights.

    python benchmarks/bench_train.py pool=DIR [samples=16384]                      # tiny, on a CPU
    python benchmarks/bench_train.py scale=small pictures=40000 samples=409600     # ViT-B-32 at batch 4096, on a GPU

Trains on the whole pool in `pool` (make one with `python -m harness.make_pool out=DIR`), or on one of so many 512-pixel
JPEGs made for the purpose, and prints samples a second and the share of the time outside forward, backward and
optimizer; then the same batches with all data at hand, which is what the machine can do. `model=`, `batch=` and what
starts with `train.` change the recipe.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from made_pool import make_photographs

from harness import executor, model
from harness.config import RunConfig, load_scale
from harness.device import pick
from harness.pool.seal import seal
from harness.subset import Subset
from harness.train.learner import Learner
from harness.train.run import train
from harness.train.world import World


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    samples = int(given.get("samples", 16_384))
    scale = load_scale(given.get("scale", "tiny"))
    scale = scale.model_copy(update={
        "samples_seen": samples, "model": given.get("model", scale.model),
        "batch_size": int(given.get("batch", scale.batch_size)), "warmup_steps": min(scale.warmup_steps, 8),
    })  # fmt: skip
    train_settings = {
        name.removeprefix("train."): yaml.safe_load(value) for name, value in given.items() if name.startswith("train.")
    }
    config = RunConfig.model_validate(
        {"scale": scale.model_dump(), "method": {"name": "no_filter"}, "train": train_settings}
    )
    with tempfile.TemporaryDirectory() as scratch:
        if "pool" not in given:
            make_photographs(Path(scratch) / "pool", int(given["pictures"]))
        sealed = seal(given.get("pool", f"{scratch}/pool"), executor=executor.local())
        record = train(config, sealed=sealed, subset=Subset.of(np.asarray(sealed.uids)), out=Path(scratch) / "out")
    made = record.provenance
    print(f"training:   {made['samples_per_second']:,.0f} samples/s, {1 - made['busy']:.1%} outside the step")

    device = pick(config.train.device, setting="train.device")
    learner = Learner(config, World(rank=0, size=1, device=device))
    size, batch = model.image_size(scale.model), scale.batch_size
    images = torch.randn((batch, 3, size, size), device=device)
    tokens = torch.randint(1, 40_000, (batch, model.context_length(scale.model)), device=device)
    tokens[:, 0], tokens[:, 12], tokens[:, 13:] = 49406, 49407, 0
    slices = list(zip(images.chunk(config.train.accumulate), tokens.chunk(config.train.accumulate), strict=True))
    steps = max(samples // batch // 2, 4)
    for k in range(2):
        learner.step(k, slices)
    wait(device)
    started = time.perf_counter()
    for k in range(steps):
        learner.step(k, slices)
    wait(device)
    print(f"step alone: {batch * steps / (time.perf_counter() - started):,.0f} samples/s")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
