"""What a person sees of a training run: progress, log.jsonl, and Weights & Biases when asked for."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch

from harness import model
from harness.config import RunConfig
from harness.errors import ConfigError, InfraError, from_os_error
from harness.files import write_bytes
from harness.progress import Progress
from harness.train.recipe import forward_macs
from harness.train.world import World

LOG = "log.jsonl"
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s of GPUs by a part of their name."""


class Watch:
    """Reports steps on the first process, and nothing elsewhere.

    log.jsonl holds one object a step: step (from 1), samples (seen so far), loss, lr, logit_scale,
    samples_per_second, data_wait (seconds the step waited for data). After a resume the log goes on where the
    snapshot stood.
    """

    def __init__(self, config: RunConfig, *, out: Path, world: World, done: int) -> None:
        self._config, self._out, self._world, self._done = config, out, world, done
        self._wandb: Any = None

    def __enter__(self) -> Self:
        if not self._world.first:
            return self
        scale = self._config.scale
        if self._config.wandb != "off":
            self._wandb = _start_wandb(self._config, self._out, mode=self._config.wandb)
        self._log = self._open_log()
        self._bar = Progress("train", total=scale.samples_seen, unit="samples")
        self._bar.__enter__()
        if self._done:
            self._bar.skip(min(self._done * scale.batch_size, scale.samples_seen))
        self._last = time.monotonic()
        return self

    def report(self, entries: list[dict[str, Any]]) -> None:
        """Show and log some steps that have just been done."""
        if not self._world.first:
            return
        now = time.monotonic()
        seen = entries[-1]["samples"] - self._bar.done
        rate = seen / max(now - self._last, 1e-9)
        self._last = now
        try:
            for entry in entries:
                entry["samples_per_second"] = round(rate, 1)
                self._log.write(json.dumps(entry) + "\n")
            self._log.flush()
        except OSError as error:
            raise from_os_error(error, self._out / LOG) from error
        self._bar.advance(seen, note=f"loss {entries[-1]['loss']:.3f}")
        if self._wandb is not None:
            for entry in entries:
                self._wandb.log({f"train/{name}": value for name, value in entry.items() if name != "step"}
                                | self._machine(rate), step=entry["step"])  # fmt: skip

    def _machine(self, rate: float) -> dict[str, float]:
        """Memory and model FLOP utilisation of the GPU, in GiB and of its dense bf16 peak."""
        device = self._world.device
        if device.type != "cuda":
            return {}
        found = {"train/gpu_memory": torch.cuda.max_memory_allocated(device) / 2**30}
        name = torch.cuda.get_device_name(device)
        peak = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
        if peak is not None:
            flops = 6 * forward_macs(model.config(self._config.scale.model)) * rate
            found["train/mfu"] = flops / (peak * self._world.size)
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._world.first:
            return
        self._bar.__exit__(kind, error, trace)
        self._log.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=1 if kind else 0)

    def _open_log(self) -> Any:
        """The log opened for appending, cut after the step from which the run goes on."""
        path = self._out / LOG
        try:
            lines = path.read_text().splitlines(keepends=True) if path.exists() and self._done else []
            write_bytes(path, "".join(lines[: self._done]).encode())
            file = open(path, "a")  # noqa: SIM115 - closed in __exit__
        except OSError as error:
            raise from_os_error(error, path) from error
        return file


def _start_wandb(config: RunConfig, out: Path, *, mode: Literal["online", "offline"]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("wandb is not installed; `pip install datacomp-harness[wandb]`, or set wandb=off") from error
    name = out.parent.name
    marker = out / "wandb_id"
    run_id = marker.read_text() if marker.exists() else os.urandom(8).hex()
    marker.write_text(run_id)
    try:
        return wandb.init(
            project=f"datacomp-{config.scale.name}", name=name, id=run_id, resume="allow", mode=mode,
            dir=str(out), config=config.model_dump(),
        )  # fmt: skip
    except wandb.Error as error:
        kind = InfraError if isinstance(error, wandb.errors.CommError) else ConfigError  # nobody answers; no key
        raise kind(f"setting wandb={mode}: {' '.join(str(error).split())} (wandb=offline asks nobody)") from error
