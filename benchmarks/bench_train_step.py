"""Step time, samples a second and MFU of one training step, with and without what is meant to speed it up.

    python benchmarks/bench_train_step.py --model ViT-B-32 --batch 4096 --steps 30

Every variant trains on the same random batches from the same weights and prints its last loss, so that a variant that
changes the loss curve shows. Needs a GPU for figures that mean anything; --device cpu --batch 32 shows that it works.
"""

import argparse
import time
from typing import Any

import torch

from harness import model
from harness.config import RunConfig, load_scale
from harness.train.learner import Learner
from harness.train.recipe import forward_macs
from harness.train.watch import PEAK_FLOPS
from harness.train.world import World, pick_device

VARIANTS: dict[str, dict[str, Any]] = {
    "recipe (gradient checkpointing, fused AdamW, TF32)": {"grad_checkpointing": True},
    "no gradient checkpointing": {"grad_checkpointing": False},
    "no gradient checkpointing, torch.compile": {"grad_checkpointing": False, "compile": True},
    "gradient checkpointing, 2 slices": {"grad_checkpointing": True, "accumulate": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", default="amp_bfloat16")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    world = World(rank=0, size=1, device=device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    peak = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
    size = model.image_size(chosen.model)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        images = torch.randn((chosen.batch, 3, size, size), generator=generator)
        tokens = torch.randint(1, 49_000, (chosen.batch, model.context_length(chosen.model)), generator=generator)
        tokens[:, 20] = 49_407
        batches.append((images.to(device), tokens.to(device)))
    scale = load_scale("small").model_copy(update={"model": chosen.model, "precision": chosen.precision})
    print(f"{name}, {chosen.model}, batch {chosen.batch}, {chosen.precision}")
    for label, settings in VARIANTS.items():
        config = RunConfig.model_validate(
            {"scale": scale.model_dump(), "method": {"name": "no_filter"}, "train": settings}
        )
        learner = Learner(config, world)
        slices = [
            list(zip(images.chunk(config.train.accumulate), tokens.chunk(config.train.accumulate), strict=True))
            for images, tokens in batches
        ]
        warm = max(3, chosen.steps // 5)
        for k in range(warm + chosen.steps):
            if k == warm:
                _wait(device)
                started = time.perf_counter()
            loss = learner.step(k, slices[k % len(slices)])
        _wait(device)
        seconds = (time.perf_counter() - started) / chosen.steps
        rate = chosen.batch / seconds
        used = f", MFU {6 * forward_macs(model.config(chosen.model)) * rate / peak:.1%}" if peak else ""
        memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""
        print(f"{label:52} {seconds * 1e3:9.1f} ms  {rate:9,.0f} samples/s{used}{memory}, loss {float(loss):.4f}")
        del learner


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
