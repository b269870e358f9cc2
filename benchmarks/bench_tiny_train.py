"""Where the time of training at scale tiny goes: `python benchmarks/bench_tiny_train.py pool=DIR [samples=16384]`.

Trains on the whole pool in `pool` (make one with `python -m harness.make_pool out=DIR`) and prints samples a second
and the share of the time outside forward, backward and optimizer; then the same batches with all data at hand, which
is what the machine can do.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from harness import executor
from harness.config import RunConfig, load_scale
from harness.pool.seal import seal
from harness.subset import Subset
from harness.train.learner import Learner
from harness.train.run import train
from harness.train.world import World


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    samples, workers = int(given.get("samples", 16_384)), given.get("workers")
    sealed = seal(given["pool"], executor=executor.local())
    scale = load_scale("tiny").model_copy(update={"samples_seen": samples})
    config = RunConfig.model_validate(
        {
            "scale": scale.model_dump(),
            "method": {"name": "no_filter"},
            "train": {"device": "cpu", "workers": workers and int(workers)},
        }
    )
    with tempfile.TemporaryDirectory() as out:
        record = train(config, sealed=sealed, subset=Subset.of(np.asarray(sealed.uids)), out=Path(out))
    made = record.provenance
    print(f"training:   {made['samples_per_second']:,.0f} samples/s, {1 - made['busy']:.1%} outside the step")

    learner = Learner(config, World(rank=0, size=1, device=torch.device("cpu")))
    images = torch.randn((256, 3, 32, 32))
    tokens = torch.randint(1, 40_000, (256, 32))
    tokens[:, 0], tokens[:, 12], tokens[:, 13:] = 49406, 49407, 0
    steps = max(samples // 256 // 2, 4)
    for k in range(2):
        learner.step(k, [(images, tokens)])
    started = time.perf_counter()
    for k in range(steps):
        learner.step(k, [(images, tokens)])
    print(f"step alone: {256 * steps / (time.perf_counter() - started):,.0f} samples/s")


if __name__ == "__main__":
    main()
