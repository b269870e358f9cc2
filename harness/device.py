"""Where models run: the device that a setting means, and how torch computes on it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from harness.config import Precision
from harness.errors import ConfigError


def pick(name: str, *, setting: str, choices: str = "auto, cpu or cuda:N", index: int = 0) -> torch.device:
    """The device `name`, of which `setting` tells: `auto` a GPU where there is one, GPU `index` where no number stands.

    ConfigError for a device that there is not; its sentence offers `choices`.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"setting {setting}: {name!r} is no device; use {choices}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"setting {setting}: no model runs on {name}; use {choices}")
    if device.type == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", index if device.index is None else device.index)
    if device.index >= torch.cuda.device_count():
        raise ConfigError(f"setting {setting}: this machine has no {device}; use {setting}=cpu")
    return device


def settle(device: torch.device, *, fast: bool) -> None:
    """Set, for the whole process, how torch computes on `device`: on a CPU so that equal runs are equal to the bit.

    `fast` lets a GPU multiply float32 with the 10 bits of mantissa of TF32 and choose its convolutions by trying them;
    without it float32 means float32.
    """
    # Matrix products of a GPU refuse it, and work on the CPU may have set it before.
    torch.use_deterministic_algorithms(device.type == "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
        torch.backends.cudnn.benchmark = fast
        return
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass at `precision`: bfloat16 or float16 where torch holds it safe, or nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "amp_bfloat16" else torch.float16)
