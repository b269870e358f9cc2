"""The loop: batches in, weights out, stopped and resumed anywhere."""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.config import RunConfig
from harness.errors import InfraError, StageError
from harness.model import save_safetensors
from harness.order import Order
from harness.train import checkpoint, ledger
from harness.train.learner import Learner
from harness.train.recipe import checkpoint_file, checkpoint_steps, learning_rate, share
from harness.train.stream import Batch, Stream
from harness.train.watch import Watch
from harness.train.world import World, when_told_to_stop

REPORT_EVERY = 16
"""Steps between looks at the losses: each look waits for the device."""


@dataclass
class Fitted:
    """How a finished run went."""

    steps: int
    seconds: float = 0.0
    """Wall time of the steps of this process."""
    busy: float = 0.0
    """Share of it spent in forward, backward and optimizer."""
    resumed: int = 0
    """Steps that an earlier run had done."""


def fit(
    config: RunConfig, order: Order, stream: Stream, *, world: World, out: Path, run: str, inputs: dict[str, str]
) -> Fitted:
    """Train to the end, from the snapshot in `out` if there is one of the run with identity digest `run`.

    Leaves checkpoints/step_*.safetensors, checkpoint.safetensors, a ledger of these `inputs` beside each, log.jsonl
    and the snapshot in `out`.
    Raises StageError if the loss is not finite, InfraError after SIGTERM (it saved first), if the disk is full or the
    memory of the GPU is used up.
    """
    told = threading.Event()
    try:
        trainer = _Trainer(config, order, world=world, out=out, run=run, inputs=inputs)
        with (
            when_told_to_stop(told.set),
            trainer.watch,
            closing(stream.batches(trainer.steps, told=told.is_set)) as batches,
        ):
            trainer.go(batches, told.is_set)
    except torch.OutOfMemoryError as error:
        raise InfraError(
            "training: the memory of the GPU is used up; train.accumulate=N computes the same in N slices, "
            "and goes on from the last snapshot"
        ) from error
    return trainer.fitted


Mark = Any
"""A time, or an event of a GPU."""


class _Clock:
    """When a device has come to what it was told to do: a GPU works on while its host is elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        if not self._cuda:
            return time.monotonic()
        event: Mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, start: Mark, end: Mark) -> float:
        """Between two marks that the device has come to."""
        return float(start.elapsed_time(end)) / 1000 if self._cuda else float(end - start)


class Seen(NamedTuple):
    """A step whose loss nobody has looked at yet."""

    loss: torch.Tensor
    logit_scale: torch.Tensor
    waited: float
    """Seconds without a batch."""
    span: tuple[Mark, Mark]
    """When the device began and ended it."""


class _Trainer:
    def __init__(
        self, config: RunConfig, order: Order, *, world: World, out: Path, run: str, inputs: dict[str, str]
    ) -> None:
        self.config, self.order, self.world, self.out, self.run, self.inputs = config, order, world, out, run, inputs
        self.scale = config.scale
        self.learner = Learner(config, world)
        self.steps, self.fed = self._resume()
        """Optimizer steps done, and the digest of each batch that they were fed."""
        self.fitted = Fitted(steps=self.steps, resumed=self.steps)
        self.watch = Watch(config, out=out, world=world, done=self.steps)
        self.clock = _Clock(world.device)
        self._uids: list[torch.Tensor] = []
        self._seen: list[Seen] = []

    def _resume(self) -> tuple[int, list[str]]:
        path = self.out / checkpoint.SNAPSHOT
        position = checkpoint.Position(steps=0, ledger=[])
        if path.exists():
            position = checkpoint.restore(path, self.learner, run=self.run)
        if self.world.largest(position.steps) != -self.world.largest(-position.steps):
            raise InfraError(
                f"{path}: not all processes see the same snapshot; put it on a file system that all nodes share, "
                "and run the same command again"
            )
        return position.steps, position.ledger

    def go(self, batches: Iterator[Batch], told: Callable[[], bool]) -> None:
        keep = set(checkpoint_steps(self.scale))
        started = saved = time.monotonic()
        waiting = started
        for batch in batches:
            ready = time.monotonic()
            self._step(batch, ready - waiting)
            self.steps += 1
            last = self.steps == self.scale.steps
            # All processes must do the same, so they agree on the most urgent wish of any.
            old = time.monotonic() - saved > 60 * self.config.train.checkpoint_minutes
            wish = self.world.largest(2 if told() else int(old and self.world.first))
            if wish or last or self.steps in keep or len(self._seen) >= REPORT_EVERY:
                self._report()
            if self.steps in keep and self.world.first:
                self._keep()
            if wish and not last:
                self._snapshot()
                saved = time.monotonic()
                if wish == 2:
                    raise self._stopped()
            waiting = time.monotonic()
        if self.steps < self.scale.steps:  # told while it waited for samples
            if self._seen:
                self._report()
            if self.steps > self.fitted.resumed:  # else other processes may not have come here
                self._snapshot()
            raise self._stopped()
        seconds = time.monotonic() - started
        self.fitted.steps = self.steps
        self.fitted.seconds, self.fitted.busy = seconds, self.fitted.busy / max(seconds, 1e-9)
        self.world.barrier()

    def _stopped(self) -> InfraError:
        return InfraError(f"stopped at step {self.steps:,} as asked; the same command goes on from there")

    def _step(self, batch: Batch, waited: float) -> None:
        began = self.clock.mark()
        slices = batch.on(self.world.device, slices=self.config.train.accumulate)
        loss = self.learner.step(batch.k, slices)
        self._seen.append(Seen(loss, self.learner.logit_scale, waited, (began, self.clock.mark())))
        self._uids.append(batch.uids)

    def _report(self) -> None:
        """Look at the losses since the last look, enter what was fed in the ledger, and say how it goes."""
        losses = torch.stack([seen.loss for seen in self._seen]).tolist()
        first = self.steps - len(losses)
        for step, loss in enumerate(losses, first + 1):
            if not math.isfinite(loss):
                raise _diverged(f"the loss is {loss} at step {step:,}")
        self.fitted.busy += sum(self.clock.seconds(*seen.span) for seen in self._seen)
        scales = torch.stack([seen.logit_scale for seen in self._seen]).tolist()
        parts = self.world.gather(torch.cat(self._uids))
        self.fed += self._digests(parts, range(first, self.steps))
        entries = [
            {
                "step": first + i + 1,
                "samples": self.order.span(first + i)[1],
                "loss": losses[i],
                "logit_scale": scales[i],
                "lr": learning_rate(self.scale, first + i),
                "data_wait": round(seen.waited, 6),
            }
            for i, seen in enumerate(self._seen)
        ]
        self._seen.clear()
        self._uids.clear()
        self.watch.report(entries)

    def _digests(self, parts: list[torch.Tensor], batches: range) -> Iterator[str]:
        """The digest of each of `batches`, put together from what each process fed in them."""
        taken = [0] * len(parts)
        for k in batches:
            state = hashlib.sha256()
            start, stop = self.order.span(k)
            for rank, part in enumerate(parts):
                low, high = share(start, stop, parts=len(parts), index=rank)
                fed = part[taken[rank] : taken[rank] + high - low].numpy()
                state.update(np.ascontiguousarray(fed).tobytes())
                taken[rank] += high - low
            yield state.hexdigest()

    def _keep(self) -> None:
        name = checkpoint_file(self.scale, self.steps)
        weights = self.learner.bare.state_dict()
        # The loss of a step tells of the weights before it, and after the last step there is none.
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise _diverged(f"the weights are not finite after step {self.steps:,}")
        save_safetensors(self.out / name, weights)
        ledger.write(self.out / ledger.beside(name), self.fed, config=self.config, inputs=self.inputs)

    def _snapshot(self) -> None:
        if self.world.first:
            position = checkpoint.Position(steps=self.steps, ledger=self.fed)
            checkpoint.save(self.out / checkpoint.SNAPSHOT, self.learner, position, run=self.run)
        self.world.barrier()


def _diverged(what: str) -> StageError:
    return StageError(
        f"training: {what}; the run ends here, "
        "and a lower scale.lr or scale.precision=fp32 (both unofficial) may avoid it"
    )
