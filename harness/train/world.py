"""The processes that train together: one, or several that torchrun started, each with its device."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from harness.device import pick
from harness.errors import InfraError

TIMEOUT = timedelta(minutes=15)
"""A rank that says nothing for so long is lost."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What SLURM, or a person, sends ahead of the end of a job."""


def _lost(error: Exception) -> InfraError:
    cause = str(error).partition("\n")[0].partition(". ")[0]
    return InfraError(f"a training process was lost ({cause}); run the same command again, it resumes")


@contextmanager
def _together() -> Iterator[None]:
    """Where processes wait for each other: a lost one comes out as InfraError."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:  # gloo's are plain RuntimeErrors
        raise _lost(error) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    @_together()
    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, summed over all processes in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    @_together()
    def largest(self, value: int) -> int:
        """The largest of the `value`s of all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    @_together()
    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all processes, by rank; their first dimensions may differ."""
        if self.size == 1:
            return [tensor]
        mine = torch.tensor(len(tensor), device=tensor.device)
        sizes = [torch.zeros_like(mine) for _ in range(self.size)]
        dist.all_gather(sizes, mine)
        most = max(int(n) for n in sizes)
        padded = tensor.new_zeros((most, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[: int(n)] for part, n in zip(parts, sizes, strict=True)]

    @_together()
    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def when_told_to_stop(then: Callable[[], object]) -> Iterator[None]:
    """Calls `then` on each of STOP_SIGNALS meanwhile; only the main thread can, elsewhere they do what they did."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda *_: then()) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sparing_children() -> Iterator[None]:
    """Signals that end a command do nothing to the processes that this thread starts meanwhile; here none is lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def under_torchrun() -> bool:
    """True in a process that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


@contextmanager
def join(device: str) -> Iterator[World]:
    """This process's place among the others; a lost rank comes out as InfraError."""
    if not under_torchrun():
        yield World(rank=0, size=1, device=pick(device, setting="train.device"))
        return
    place = pick(device, setting="train.device", index=int(os.environ["LOCAL_RANK"]))
    if place.type == "cuda":
        torch.cuda.set_device(place)
    try:
        with _together():
            dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=place)
    except dist.DistError as error:  # NCCL's come out wherever the GPU is asked next
        raise _lost(error) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
