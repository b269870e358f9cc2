"""Where a model answers: on the devices of this machine, or in the workers of an executor.

Both give the embeddings of the same chunks and batches in the same order, so results do not depend on which of them
was used, nor on how many devices or workers there are (of one kind).
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache, partial
from itertools import cycle
from typing import TypeVar

import torch

from harness.errors import ArtifactError
from harness.eval.data import Chunk
from harness.eval.encoder import Encoder, ModelAt, devices
from harness.eval.metrics import Floats
from harness.eval.source import Job, load_job
from harness.executor import Executor, LocalExecutor, local

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Found = Chunk | ArtifactError
"""What comes of a job."""

AHEAD = 2
"""Chunks that wait for a device or its answer."""
CPU_STREAMS = 4
"""Chunks that a CPU embeds at once, at most: small layers leave cores waiting for each other within one chunk, while
each chunk that is embedded takes memory."""
PICTURE_COST = 32 << 10
"""Bytes that take about as long to decode as a picture takes to be resized and embedded; only the balance of the
workers hangs on it."""
PIECES = 8
"""Pieces of work per worker, so that none works long after the others have ended."""
MOST_JOBS = 128
"""Jobs in a piece at most: bounds what a worker sends back at once."""


class Embedder(ABC):
    """Embeds pictures and tokens; the model is loaded when first needed."""

    executor: Executor
    """For other work of the evaluation."""

    @abstractmethod
    def pictures(self, jobs: Sequence[Job]) -> Iterator[tuple[Found, Floats | None]]:
        """The chunk of each job, in order, and the unit embeddings of its pictures; None where it has none."""

    @abstractmethod
    def tokens(self, batches: Sequence[torch.Tensor]) -> Iterator[Floats]:
        """Unit embeddings (N, D) of each batch of tokens (N, L), in order."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """sha256 (hex) of the weights."""

    @property
    @abstractmethod
    def device(self) -> str:
        """Type of the device that answers: cpu, cuda."""

    def close(self) -> None:  # noqa: B027 - not every embedder has something of its own
        """End what was started."""


class Devices(Embedder):
    """One copy of the model on each device of this machine; processes decode, the devices take turns.

    A CPU counts as several devices that share the weights.
    """

    def __init__(self, at: ModelAt, *, workers: int | None = None) -> None:
        self._at = at
        self._names = devices(at.device)
        cores = len(os.sched_getaffinity(0))
        streams = min(cores, CPU_STREAMS) if self._names == ["cpu"] else len(self._names)
        share, self._before = max(cores // streams, 1), torch.get_num_threads()
        self._threads = [
            ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(share,)) for _ in range(streams)
        ]
        self.executor = local(workers if workers is None else max(workers, 1))

    @cached_property
    def _encoders(self) -> list[Encoder]:
        at = self._at
        found = [Encoder(at.name, at.checkpoint, device=name, precision=at.precision) for name in self._names]
        return found + [found[0].twin() for _ in self._threads[len(found) :]]

    @property
    def digest(self) -> str:
        """See Embedder."""
        return self._encoders[0].digest

    @property
    def device(self) -> str:
        """See Embedder."""
        return self._encoders[0].device.type

    def pictures(self, jobs: Sequence[Job]) -> Iterator[tuple[Found, Floats | None]]:
        """See Embedder."""
        return self._in_turn(_embed_chunk, self.executor.stream(load_job, jobs, name="eval", quiet=True))

    def tokens(self, batches: Sequence[torch.Tensor]) -> Iterator[Floats]:
        """See Embedder."""
        for _, embeddings in self._in_turn(Encoder.tokens, batches):
            yield embeddings

    def _in_turn(self, work: Callable[[Encoder, Item], Answer], items: Iterable[Item]) -> Iterator[tuple[Item, Answer]]:
        """Each item with what a device makes of it, in order."""
        turns = cycle(zip(self._threads, self._encoders, strict=True))
        waiting: deque[tuple[Item, Future[Answer]]] = deque()
        try:
            for item, (thread, encoder) in zip(items, turns, strict=False):
                waiting.append((item, thread.submit(work, encoder, item)))
                if len(waiting) > AHEAD * len(self._threads):
                    done, answer = waiting.popleft()
                    yield done, answer.result()
            while waiting:
                done, answer = waiting.popleft()
                yield done, answer.result()
        finally:
            for _, answer in waiting:
                answer.cancel()

    def close(self) -> None:
        """End the processes that decode and the threads of the devices."""
        self.executor.close()
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)  # else threads that start later have as few as ours


class Workers(Embedder):
    """The model in each worker of an executor: a worker reads, decodes and embeds its pieces of work."""

    def __init__(self, at: ModelAt, executor: Executor) -> None:
        self._at, self.executor = at, executor

    @property
    def digest(self) -> str:
        """See Embedder."""
        return self.executor.map(_digest, [self._at], name="model")[0]

    @cached_property
    def device(self) -> str:
        """See Embedder."""
        return self.executor.map(_device, [self._at], name="device")[0]

    def pictures(self, jobs: Sequence[Job]) -> Iterator[tuple[Found, Floats | None]]:
        """See Embedder."""
        pieces = packed(jobs, PIECES * self.executor.workers)
        for found in self.executor.stream(partial(_embed_jobs, self._at), pieces, name="eval", quiet=True):
            yield from found

    def tokens(self, batches: Sequence[torch.Tensor]) -> Iterator[Floats]:
        """See Embedder."""
        return self.executor.stream(partial(_embed_tokens, self._at), batches, name="texts", quiet=True)


def cost(job: Job) -> int:
    """What a job takes, in bytes to decode."""
    return job.bytes + PICTURE_COST * job.samples


def packed(jobs: Sequence[Job], pieces: int) -> list[list[Job]]:
    """The jobs in their order, cut into about `pieces` pieces of about equal cost.

    Small tasks share a piece, large ones are split between chunks: a job is never cut.
    """
    share = sum(map(cost, jobs)) / pieces
    found: list[list[Job]] = []
    filled = 0.0
    for job in jobs:
        if not found or filled >= share or len(found[-1]) == MOST_JOBS:
            found.append([])
            filled = 0.0
        found[-1].append(job)
        filled += cost(job)
    return found


@lru_cache(maxsize=1)
def _encoder(at: ModelAt) -> Encoder:
    """A worker's model, loaded once."""
    return Encoder(at.name, at.checkpoint, device=devices(at.device)[0], precision=at.precision)


def _digest(at: ModelAt) -> str:
    return _encoder(at).digest


def _device(at: ModelAt) -> str:
    return torch.device(devices(at.device)[0]).type


def _embed_tokens(at: ModelAt, tokens: torch.Tensor) -> Floats:
    return _encoder(at).tokens(tokens)


def _embed_jobs(at: ModelAt, jobs: Sequence[Job]) -> list[tuple[Found, Floats | None]]:
    encoder = _encoder(at)
    # torch's threads are this worker's share of the cores; Pillow decodes outside the interpreter lock.
    threads = LocalExecutor(torch.get_num_threads())
    chunks = threads.stream(load_job, jobs, name="decode", threads=True, quiet=True)
    return [(_without_pictures(chunk), _embed_chunk(encoder, chunk)) for chunk in chunks]


def _embed_chunk(encoder: Encoder, chunk: Found) -> Floats | None:
    return encoder.images(chunk.images) if isinstance(chunk, Chunk) and chunk.images is not None else None


def _without_pictures(chunk: Found) -> Found:
    return chunk.without_pictures() if isinstance(chunk, Chunk) else chunk
