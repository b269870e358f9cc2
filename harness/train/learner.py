"""The model with its optimizer, and one step of the recipe."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from harness.config import RunConfig, Scale
from harness.device import autocast, settle
from harness.model import create
from harness.train.contrast import Backward, Batch, gradient
from harness.train.recipe import LOGIT_SCALE_MAX, decayed, learning_rate
from harness.train.towers import SideBySide
from harness.train.world import World


class Learner:
    """What training changes: weights, optimizer state and, at precision amp, the scale of the loss."""

    def __init__(self, config: RunConfig, world: World) -> None:
        scale, train = config.scale, config.train
        cuda = world.device.type == "cuda"
        settle(world.device, fast=True)
        self.scale, self.world = scale, world
        self.bare = create(scale.model, seed=config.seed).to(world.device).train()
        """The model itself, whose names of parameters are open_clip's."""
        if cuda if train.grad_checkpointing is None else train.grad_checkpointing:
            self.bare.set_grad_checkpointing(True)
        if cuda:
            self.bare = self.bare.to(memory_format=torch.channels_last)
        self.model: Any = torch.compile(self.bare) if train.compile else self.bare
        """The model to call: compiled if so wanted, wrapped if several processes train, its towers apart on CPU."""
        if world.size > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(
                self.model, device_ids=[world.device] if cuda else None, gradient_as_bucket_view=True
            )
        self.optimizer = adamw(self.bare, scale)
        self.scaler = torch.amp.GradScaler(world.device.type) if scale.precision == "amp" else None
        self.autocast = partial(autocast, scale.precision, world.device)
        self.backward: Backward = torch.autograd.backward
        if world.device.type == "cpu" and self.model is self.bare and torch.get_num_threads() > 1:
            self.model = SideBySide(self.bare, autocast=self.autocast)
            self.backward = self.model.backward

    def step(self, number: int, slices: Sequence[Batch]) -> torch.Tensor:
        """Optimizer step `number` (from 0) on this process's part of the batch; the global loss, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.scale, number)
        self.optimizer.zero_grad(set_to_none=True)
        loss = gradient(
            self.model, slices, world=self.world, autocast=self.autocast, scaler=self.scaler, backward=self.backward
        )
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        with torch.no_grad():
            self.bare.logit_scale.clamp_(0, LOGIT_SCALE_MAX)
        return loss

    @property
    def logit_scale(self) -> torch.Tensor:
        """The temperature by which cosines are multiplied, in [1, 100], detached."""
        temperature: torch.Tensor = self.bare.logit_scale
        return temperature.detach().exp()


def adamw(model: torch.nn.Module, scale: Scale) -> torch.optim.AdamW:
    """The recipe's optimizer over `model`: two groups, gains and biases without weight decay first."""
    plain, heavy = decayed((p, p.ndim) for p in model.parameters() if p.requires_grad)
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": heavy, "weight_decay": scale.weight_decay}]
    return torch.optim.AdamW(groups, lr=scale.lr, betas=(scale.beta1, scale.beta2), eps=scale.eps, fused=True)
