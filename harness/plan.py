"""What a run would do, before it does it: uids, repeats, steps, bytes, time. Pure arithmetic and formatting."""

import json
from dataclasses import dataclass

from harness.config import RunConfig, Scale
from harness.files import data_dir
from harness.order import MOST_PASSES
from harness.train import recipe

# GMACs of one image-text forward pass: the table of the DataComp paper (compute / samples seen).
GMACS = {"ViT-B-32": 7.4, "ViT-B-16": 20.4, "ViT-L-14": 87.7}
FORWARD_AND_BACKWARD = 3
# Sustained FLOP/s in training, about 40 % of a GPU's dense bf16 peak; a CPU core does about 25 GFLOP/s in fp32.
SUSTAINED = {"H200": 400e12, "H100": 400e12, "A100": 125e12, "cuda": 60e12, "cpu": 25e9}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What is trained on, of a pool that is there."""

    size: int
    """Uids chosen, repeats counted."""
    distinct: int
    shard_bytes: int
    """Bytes of the pool's tars."""
    reshard: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The size of a run."""

    config: RunConfig
    pool_size: int
    """Pairs in the effective pool."""
    chosen: Chosen | None
    """None before the generated pool is made: what a method would choose from it is not known."""
    missing_tasks: list[str] | None
    """Task keys whose data are not in their folder; None if tiny's stand-ins are still to be made."""
    no_tasks: str = ""
    """Why the task data cannot be looked for."""
    device: str
    """Name of the device that would train."""
    cores: int

    @property
    def pass_bytes(self) -> int:
        """Bytes read in one pass over the subset, by the mean size of a pair in the pool."""
        return int(self.chosen.shard_bytes * self.chosen.distinct / max(self.pool_size, 1)) if self.chosen else 0

    @property
    def disk_bytes(self) -> int:
        """Bytes written: resharded tars, kept checkpoints with one resumable snapshot, predictions."""
        weights = parameters(self.config.scale) * 4
        tars = self.pass_bytes if self.chosen and self.chosen.reshard else 0
        return tars + weights * (self.config.scale.checkpoints + 4) + (50 << 20)

    @property
    def train_seconds(self) -> float:
        """Rough time of training, from the model's FLOPs and what such a device sustains."""
        rate = next((rate for name, rate in SUSTAINED.items() if name in self.device), SUSTAINED["cuda"])
        devices = self.cores if self.device == "cpu" else self.config.train.gpus
        flops = 2 * forward_macs(self.config.scale) * FORWARD_AND_BACKWARD * self.config.scale.samples_seen
        return flops / (rate * devices)

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        scale = self.config.scale
        where = f"{self.cores} cores" if self.device == "cpu" else f"{self.config.train.gpus} x {self.device}"
        last = scale.samples_seen - (scale.steps - 1) * scale.batch_size
        official = ", ".join(self.config.unofficial)
        return [
            *self._data(),
            f"training  {scale.steps:,} steps of {scale.batch_size:,} (last {last:,}), "
            f"{scale.samples_seen:,} samples seen, {scale.model} {scale.precision}",
            f"time      about {duration(self.train_seconds)} of training on {where}; not estimated: making and sealing "
            "a pool, selection, resharding, evaluation",
            f"disk      {self.disk_bytes / 1e9:.2f} GB written",
            f"tasks     {self._tasks()}",
            f"protocol  {'unofficial: ' + official if official else 'official'}",
            *([f"entry     {self.refused}"] if self.refused else []),
        ]

    @property
    def refused(self) -> str:
        """Why no entry of the run would be accepted; empty as far as is known."""
        return too_small(self.chosen.size, self.config.scale) if self.chosen else ""

    def _data(self) -> list[str]:
        if self.chosen is None:
            return [
                f"pool      {self.pool_size:,} pairs, generated and sealed when first used",
                "subset    not known before the pool is there",
            ]
        return [
            f"pool      {self.pool_size:,} pairs",
            f"subset    {self.chosen.size:,} uids ({self.chosen.distinct:,} distinct), "
            f"seen {self.config.scale.samples_seen / max(self.chosen.size, 1):.2f} times each",
            f"reading   {'resharded tars' if self.chosen.reshard else 'the pool through a mask'}, "
            f"{self.pass_bytes / 1e9:.2f} GB a pass",
        ]

    def _tasks(self) -> str:
        if self.no_tasks:
            return self.no_tasks
        if self.missing_tasks is None:
            return "stand-ins, generated when first used"
        if self.missing_tasks:
            return f"{len(self.missing_tasks)} missing: {', '.join(self.missing_tasks)}"
        return "all there"


def too_small(size: int, scale: Scale) -> str:
    """Why an entry of a subset of `size` uids is not accepted; empty if it is."""
    passes = scale.samples_seen // max(size, 1)
    if passes <= MOST_PASSES:
        return ""
    least = scale.samples_seen // (MOST_PASSES + 1) + 1
    return (
        f"not accepted: {size:,} uids are passed over {passes:,} times, {MOST_PASSES:,} are the most (RULES.md); "
        f"choose {least:,} uids or more"
    )


def duration(seconds: float) -> str:
    """`4 min`, `3.2 h`: one unit, two digits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _model_json(name: str) -> dict[str, dict[str, int]] | None:
    path = data_dir("configs") / "model" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def forward_macs(scale: Scale) -> float:
    """Multiply-accumulates of one image-text pair through both towers."""
    known = GMACS.get(scale.model)
    if known is not None:
        return known * 1e9
    model = _model_json(scale.model)
    if model is None:
        return GMACS["ViT-B-32"] * 1e9
    return recipe.forward_macs(model)


def parameters(scale: Scale) -> int:
    """Weights of the model, roughly."""
    known = {"ViT-B-32": 151_277_313, "ViT-B-16": 149_620_737, "ViT-L-14": 427_616_513}
    model = _model_json(scale.model)
    if model is None:
        return known.get(scale.model, 151_277_313)
    vision, text = model["vision_cfg"], model["text_cfg"]
    return (
        12 * (vision["width"] ** 2 * vision["layers"] + text["width"] ** 2 * text["layers"])
        + text["vocab_size"] * text["width"]
    )
