"""Evaluate one checkpoint on the tasks of a suite: one model, one stream of pictures over all tasks.

Each finished task leaves `<slug>.json` (record of kind "task") and `predictions/<slug>.parquet` in the folder; a task
whose record agrees with checkpoint, data, task and protocol is not done again. `evaluation.json` comes last. A task
whose data do not fit fails alone: the others go on, and the evaluation is incomplete and says so.
"""

import io
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import Precision
from harness.errors import ArtifactError, StageError
from harness.eval import data, digests, kinds
from harness.eval.board import Board
from harness.eval.encoder import Encoder, Floats, devices
from harness.eval.results import EVALUATION, Results
from harness.eval.source import TaskSource, attempt, load_job
from harness.eval.suite import Suite, load
from harness.executor import Executor, local
from harness.files import write_bytes
from harness.provenance import provenance
from harness.records import Record, digest_of

Found = data.Chunk | ArtifactError
"""What a worker gives back."""

AHEAD = 2
"""Chunks that wait for a device or its answer."""
CHUNK_BYTES = 16 << 20
"""Decoded pictures that travel together from a worker; bounds the memory of what waits."""


def evaluate(
    *,
    model: str,
    checkpoint: str | Path,
    suite: Suite | str,
    data_dir: str | Path,
    out: str | Path,
    tasks: Sequence[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    batch_size: int = 256,
    precision: Precision = "fp32",
) -> Record:
    """Score `checkpoint` on the tasks of `suite` whose data lie in `data_dir`; the record of evaluation.json.

    `tasks` are keys (None: all). Results go to `out`; those already there that still hold are kept. Raises
    ConfigError for unknown tasks, ArtifactError for a checkpoint that cannot be read, StageError if tasks failed
    (after the others are done and evaluation.json says that it is incomplete).
    """
    started = time.monotonic()
    suite = load(suite) if isinstance(suite, str) else suite
    chosen = {task.key for task in suite.select(tasks)}
    copies = _Devices(model, checkpoint, device=device, precision=precision)
    path = Path(checkpoint)
    digest = digests.sha256(path) if path.is_file() else copies.first.digest
    results = Results(folder=Path(out), checkpoint=digest, model=model, precision=precision)

    records: dict[str, Record] = {}
    failed: dict[str, str] = {}
    sources: list[TaskSource] = []
    for task in suite.tasks.values():
        if task.key not in chosen and not results.exists(task):
            continue
        try:
            source = TaskSource.open(task, Path(data_dir))
            known = results.known(source)
        except ArtifactError as error:
            if task.key in chosen:
                failed[task.key] = str(error)
            continue
        if known is not None:
            records[task.key] = known
        if task.key in chosen:
            sources.append(source)
    with Board(suite.select(tasks), records, failed) as board:
        evaluation = _Evaluation(results=results, model=copies, board=board, batch_size=batch_size)
        if any(source.task.key not in records for source in sources):
            executor = local(workers or None)
            try:
                evaluation.run(sources, executor)
            finally:
                executor.close()
    record = results.summary(suite, records, provenance=provenance(seconds=time.monotonic() - started, failed=failed))
    if failed:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in failed.items())
        raise StageError(
            f"{len(failed)} of {len(chosen)} tasks failed, {results.folder / EVALUATION} is incomplete: {reasons}"
        )
    if record.payload["complete"]:
        for leftover in results.folder.glob(".classifiers-*.npy"):
            leftover.unlink()
    return record


class _Devices:
    """One copy of the model on each device, loaded when first needed: a finished evaluation does not need it."""

    def __init__(self, model: str, checkpoint: str | Path, *, device: str, precision: Precision) -> None:
        self._make = partial(Encoder, model, checkpoint, precision=precision)
        self._device = device

    @cached_property
    def encoders(self) -> list[Encoder]:
        """The copies."""
        return [self._make(device=device) for device in devices(self._device)]

    @property
    def first(self) -> Encoder:
        """The copy for work that is not spread."""
        return self.encoders[0]

    def embed(self, chunks: Iterable[Found]) -> Iterator[tuple[Found, Floats | None]]:
        """Each chunk with the embeddings of its pictures, in order; the devices take turns, each in its own thread."""
        threads = [ThreadPoolExecutor(1) for _ in self.encoders]
        turns = cycle(zip(self.encoders, threads, strict=True))
        waiting: deque[tuple[Found, Future[Floats] | None]] = deque()
        try:
            for chunk in chunks:
                work = None
                if isinstance(chunk, data.Chunk) and chunk.images is not None:
                    encoder, thread = next(turns)
                    work = thread.submit(encoder.images, chunk.images)
                waiting.append((chunk, work))
                if len(waiting) > AHEAD * len(threads):
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for thread in threads:
                thread.shutdown(cancel_futures=True)


def _result(item: tuple[Found, "Future[Floats] | None"]) -> tuple[Found, Floats | None]:
    chunk, work = item
    return chunk, None if work is None else work.result()


class _Evaluation:
    """The tasks of one evaluation that are still to be done."""

    def __init__(self, *, results: Results, model: _Devices, board: Board, batch_size: int) -> None:
        self.results, self.model, self.board, self.batch_size = results, model, board, batch_size
        self.provenance = provenance()

    def run(self, sources: list[TaskSource], executor: Executor) -> None:
        """Evaluate those of `sources` that have no record yet; records and failures go to the board."""
        pending = self._index([s for s in sources if s.task.key not in self.board.records], executor)
        # Of all tasks, done or not: prompts share batches, and a resumed run must not differ in the last bit.
        classifiers = self._classifiers([s for s in sources if s.task.key not in self.board.failed])
        size = self.model.first.image_size
        most = max(1, min(self.batch_size, CHUNK_BYTES // (3 * size * size)))
        jobs = [job for source in pending for job in source.jobs(size, most)]
        left = Counter(job.task for job in jobs)
        states = {s.task.key: (s, kinds.scorer(s.task, classifiers[s.task.key])) for s in pending}
        chunks = self.model.embed(executor.stream(load_job, jobs, name="eval", quiet=True))
        started = time.monotonic()
        for job, (chunk, embeddings) in zip(jobs, chunks, strict=True):
            if job.task in self.board.failed:
                continue
            source, scorer = states[job.task]
            try:
                if isinstance(chunk, ArtifactError):
                    raise chunk
                self.board.running(job.task, job.samples)
                scorer.add(job.part, chunk, embeddings)
                left[job.task] -= 1
                if not left[job.task]:
                    keys, columns = scorer.finish(self.model.first.texts)
                    self.board.done(job.task, self.results.write(source, keys, columns, provenance=self._how(started)))
                    started = time.monotonic()
                    del states[job.task]  # and the embeddings it holds
            except ArtifactError as error:
                self.board.fail(job.task, error)

    def _how(self, started: float) -> dict[str, Any]:
        seconds = round(time.monotonic() - started, 3)
        return {**self.provenance, "seconds": seconds, "device": self.model.first.device.type}

    def _index(self, pending: list[TaskSource], executor: Executor) -> list[TaskSource]:
        """Read what the tars of the pending tasks hold; those that fit."""
        work = [partial(data.index_shard, path, s.parts[part]) for s in pending for part, path in s.shards]
        indices = executor.stream(attempt, work, name="index", quiet=True)
        good = []
        for source in pending:
            found = [next(indices) for _ in source.shards]
            fault = next((index for index in found if isinstance(index, ArtifactError)), None)
            try:
                if fault is not None:
                    raise fault
                source.take([index for index in found if not isinstance(index, ArtifactError)])
                good.append(source)
            except ArtifactError as error:
                self.board.fail(source.task.key, error)
        return good

    def _classifiers(self, sources: Sequence[TaskSource]) -> dict[str, list[Floats]]:
        """The class embeddings of each task; kept in the folder until the evaluation is complete."""
        words = {s.task.key: kinds.objectives(s.task, s.words) for s in sources}
        flat = [one for several in words.values() for one in several]
        if not flat:
            return {key: [] for key in words}
        made_of = [self.results.checkpoint, self.results.model, self.results.precision]
        key = digest_of([*made_of, [[one.classnames, one.templates] for one in flat]])
        place = self.results.folder / f".classifiers-{key[:16]}.npy"
        if place.exists():
            rows = np.load(place, allow_pickle=False)
        else:
            rows = np.concatenate(self.model.first.classifiers(flat))
            write_bytes(place, _npy(rows))
        split = iter(np.split(rows, np.cumsum([len(one.classnames) for one in flat])[:-1]))
        return {key: [next(split) for _ in several] for key, several in words.items()}


def _npy(rows: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()
