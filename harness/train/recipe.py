"""The fixed recipe as arithmetic: scale in, numbers out. No torch here."""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

from harness.config import Scale
from harness.weights import WEIGHTS

LOGIT_SCALE_MAX = math.log(100)
"""The learned temperature is kept in [0, ln 100] after each step."""

T = TypeVar("T")


def learning_rate(scale: Scale, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0: linear warm-up, then a cosine to 0 (open_clip_train)."""
    if step < scale.warmup_steps:
        return scale.lr * (step + 1) / scale.warmup_steps
    done, whole = step - scale.warmup_steps, scale.steps - scale.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * done / whole)) * scale.lr


def checkpoint_steps(scale: Scale) -> list[int]:
    """Steps done when a checkpoint is kept: round(i * steps / checkpoints), the last one the end of training."""
    if scale.checkpoints >= scale.steps:
        return list(range(1, scale.steps + 1))
    return sorted({max(1, round(i * scale.steps / scale.checkpoints)) for i in range(1, scale.checkpoints + 1)})


def checkpoint_file(scale: Scale, step: int) -> str:
    """Name, below the folder of the training, of the weights that are kept after `step` steps."""
    return WEIGHTS if step == scale.steps else f"checkpoints/step_{step:07d}.safetensors"


def share(start: int, stop: int, *, parts: int, index: int) -> tuple[int, int]:
    """Borders of part `index` of the range start…stop-1 cut into `parts` that differ by at most one."""
    size = stop - start
    return start + size * index // parts, start + size * (index + 1) // parts


def decayed(ndims: Iterable[tuple[T, int]]) -> tuple[list[T], list[T]]:
    """Parameters without and with weight decay, given each with its number of dimensions: two or more decay."""
    plain: list[T] = []
    heavy: list[T] = []
    for parameter, ndim in ndims:
        (heavy if ndim >= 2 else plain).append(parameter)
    return plain, heavy


def forward_macs(architecture: dict[str, Any]) -> int:
    """Multiply-adds of one pair's forward pass through an open_clip ViT and its text transformer (config as given).

    A training step takes three times as many, counted without what gradient checkpointing repeats.
    """
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    macs: int = (
        _transformer(vision["layers"], vision["width"], patches + 1)
        + patches * vision["patch_size"] ** 2 * 3 * vision["width"]
        + _transformer(text["layers"], text["width"], text["context_length"])
        + architecture["embed_dim"] * (vision["width"] + text["width"])
    )
    return macs


def _transformer(layers: int, width: int, tokens: int) -> int:
    return layers * tokens * (12 * width * width + 2 * tokens * width)
