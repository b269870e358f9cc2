"""Step time, samples a second and MFU of one training step: open_clip_train's own, ours, and ours without each aid.

    python benchmarks/bench_train_step.py --model ViT-B-32 --batch 4096 --steps 30

Every variant trains on the same random batches from the same weights; the largest difference of its losses from those
of open_clip_train's step shows whether it keeps the loss curve. Needs a GPU for figures that mean anything;
--device cpu --batch 32 shows that it works.
"""

import argparse
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import open_clip
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import model
from harness.config import RunConfig, Scale, load_scale
from harness.device import autocast, pick, settle
from harness.train.learner import Learner
from harness.train.recipe import decayed, forward_macs, learning_rate
from harness.train.watch import PEAK_FLOPS
from harness.train.world import World

Slices = list[tuple[torch.Tensor, torch.Tensor]]
Step = Callable[[int, Slices], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Our step with some of what is meant to speed it up."""

    train: dict[str, Any] = field(default_factory=lambda: {"grad_checkpointing": False})
    fused: bool = True
    channels_last: bool = True
    tf32: bool = True
    flash: bool = True


VARIANTS = {
    "ours as it runs": Variant(train={}),
    "no gradient checkpointing": Variant(),
    "no gradient checkpointing, torch.compile": Variant(train={"grad_checkpointing": False, "compile": True}),
    "gradient checkpointing, 2 slices": Variant(train={"grad_checkpointing": True, "accumulate": 2}),
    "no checkpointing, AdamW not fused": Variant(fused=False),
    "no checkpointing, channels first": Variant(channels_last=False),
    "no checkpointing, no TF32": Variant(tf32=False),
    "no checkpointing, attention without flash": Variant(flash=False),
}


def reference(scale: Scale, device: torch.device) -> Step:
    """The step of open_clip_train.train with the reference's options: gradient checkpointing, local loss."""
    clip = model.create(scale.model, seed=0).to(device).train()
    clip.set_grad_checkpointing(True)
    plain, heavy = decayed((p, p.ndim) for p in clip.parameters())
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": heavy, "weight_decay": scale.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=scale.lr, betas=(scale.beta1, scale.beta2), eps=scale.eps)
    loss_of, forward = (
        open_clip.ClipLoss(local_loss=True, gather_with_grad=True),
        partial(autocast, scale.precision, device),
    )
    settle(device, fast=True)

    def step(number: int, slices: Slices) -> torch.Tensor:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(scale, number)
        optimizer.zero_grad()
        images, tokens = (torch.cat(parts) for parts in zip(*slices, strict=True))
        with forward():
            loss: torch.Tensor = loss_of(**clip(images, tokens))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
        return loss.detach()

    return step


def ours(variant: Variant, scale: Scale, device: torch.device) -> Step:
    """The harness's own step."""
    values = {"scale": scale.model_dump(), "method": {"name": "no_filter"}, "train": variant.train}
    learner = Learner(RunConfig.model_validate(values), World(rank=0, size=1, device=device))
    if not variant.fused:
        learner.optimizer = torch.optim.AdamW(
            [{**group, "fused": False} for group in learner.optimizer.param_groups], fused=False
        )
    if not variant.channels_last:
        learner.bare.to(memory_format=torch.contiguous_format)
    if not variant.tf32:  # which the next learner settles anew
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    attention = [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION]

    def step(number: int, slices: Slices) -> torch.Tensor:
        with nullcontext() if variant.flash else sdpa_kernel(attention):
            return learner.step(number, slices)

    return step


def measure(step: Step, batches: list[Slices], steps: int, device: torch.device) -> tuple[float, list[float]]:
    """Seconds a step, and the loss of every step, those of the warm-up too."""
    warm = max(3, steps // 5)
    losses = []
    for k in range(warm + steps):
        if k == warm:
            wait(device)
            started = time.perf_counter()
        losses.append(step(k, batches[k % len(batches)]))
    wait(device)
    return (time.perf_counter() - started) / steps, torch.stack(losses).tolist()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", default="amp_bfloat16")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    device = pick(chosen.device, setting="--device")
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
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
    expected: list[float] = []
    theirs = math.nan
    for label, variant in {"open_clip_train's step": None, **VARIANTS}.items():
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        step = reference(scale, device) if variant is None else ours(variant, scale, device)
        parts = variant.train.get("accumulate", 1) if variant else 1
        cut = [list(zip(images.chunk(parts), tokens.chunk(parts), strict=True)) for images, tokens in batches]
        seconds, losses = measure(step, cut, chosen.steps, device)
        expected, theirs = expected or losses, seconds if variant is None else theirs
        rate = chosen.batch / seconds
        used = f", MFU {6 * forward_macs(model.config(chosen.model)) * rate / peak:.1%}" if peak else ""
        memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if cuda else ""
        apart = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        print(
            f"{label:44} {seconds * 1e3:9.1f} ms  {theirs / seconds:5.2f} times {rate:9,.0f} samples/s{used}{memory}, "
            f"loss {losses[-1]:.4f}, apart {apart:.1e} at most"
        )
        del step


if __name__ == "__main__":
    main()
