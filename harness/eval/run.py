"""Evaluate one checkpoint on the tasks of a suite: one model, one stream of pictures over all tasks.

Each finished task leaves `<slug>.json` (record of kind "task") and `predictions/<slug>.parquet` in the folder; a task
whose record agrees with checkpoint, data, task and protocol is not done again. `evaluation.json` comes last. A task
whose data do not fit fails alone: the others go on, and the evaluation is incomplete and says so.
"""

import io
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import model as models
from harness.config import Precision
from harness.errors import ArtifactError, StageError
from harness.eval import data, digests, kinds, lockfile
from harness.eval.board import Board
from harness.eval.embedders import Devices, Embedder, Workers
from harness.eval.encoder import ModelAt
from harness.eval.metrics import Floats
from harness.eval.results import EVALUATION, Results
from harness.eval.source import TaskSource, attempt
from harness.eval.suite import Suite, load
from harness.eval.texts import Texts
from harness.executor import Executor
from harness.files import write_bytes
from harness.provenance import provenance
from harness.records import Record, digest_of

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
    executor: Executor | None = None,
) -> Record:
    """Score `checkpoint` on the tasks of `suite` whose data lie in `data_dir`; the record of evaluation.json.

    `tasks` are keys (None: all). Results go to `out`; those already there that still hold are kept. The devices of
    this machine do the work, with `workers` processes that decode (None: one per core), unless there is an
    `executor`: then each of its workers has the model. Results are the same.

    Raises ConfigError for unknown tasks, ArtifactError for a checkpoint that cannot be read, StageError if its
    embeddings are not finite, or if tasks failed (after the others are done and evaluation.json says that it is
    incomplete; where none could be done, what was there before stays).
    """
    started = time.monotonic()
    suite = load(suite) if isinstance(suite, str) else suite
    chosen = {task.key for task in suite.select(tasks)}
    # Workers may stand in another folder.
    data_dir, path = Path(data_dir).absolute(), Path(checkpoint).absolute()
    at = ModelAt(name=model, checkpoint=str(path if path.is_file() else checkpoint), device=device, precision=precision)
    locked = lockfile.read(data_dir)
    records: dict[str, Record] = {}
    failed: dict[str, str] = {}
    sources: list[TaskSource] = []
    with closing(Devices(at, workers=workers) if executor is None else Workers(at, executor)) as embedder:
        digest = digests.sha256(path) if path.is_file() else embedder.digest
        pictures = models.recorded(model, checkpoint)
        results = Results(folder=Path(out), checkpoint=digest, model=model, precision=precision, pictures=pictures)
        for task in suite.tasks.values():
            if task.key not in chosen and not results.exists(task):
                continue
            try:
                source = TaskSource.open(task, data_dir, locked.get(task.key))
                known = results.known(source)
            except ArtifactError as error:
                if task.key in chosen:
                    failed[task.key] = str(error)
                    continue
                known = results.stated(task)  # data that are away say nothing against it
            if known is not None:
                records[task.key] = known
            if task.key in chosen:
                sources.append(source)
        with Board(suite.select(tasks), records, failed) as board:
            if any(source.task.key not in records for source in sources):
                _Evaluation(results=results, embedder=embedder, board=board, batch_size=batch_size).run(sources)
    place = results.folder / EVALUATION
    reasons = "; ".join(f"{key}: {reason}" for key, reason in failed.items())
    if failed and not chosen & records.keys() and place.exists():
        # Data that are away say nothing against the results that are there.
        raise StageError(f"none of {len(chosen)} tasks could be evaluated, {place} stays as it was: {reasons}")
    record = results.summary(suite, records, provenance=provenance(seconds=time.monotonic() - started, failed=failed))
    if failed:
        raise StageError(f"{len(failed)} of {len(chosen)} tasks failed, {place} is incomplete: {reasons}")
    if record.payload["complete"]:
        for leftover in results.folder.glob(".classifiers-*.npy"):
            leftover.unlink()
    return record


class _Evaluation:
    """The tasks of one evaluation that are still to be done."""

    def __init__(self, *, results: Results, embedder: Embedder, board: Board, batch_size: int) -> None:
        self.results, self.embedder, self.board, self.batch_size = results, embedder, board, batch_size
        self.texts = Texts(models.tokenizer(results.model), embedder.tokens)
        self.provenance = {**provenance(), "device": embedder.device}

    def run(self, sources: list[TaskSource]) -> None:
        """Evaluate those of `sources` that have no record yet; records and failures go to the board."""
        pending = self._index([s for s in sources if s.task.key not in self.board.records])
        # Of all tasks, done or not: prompts share batches, and a resumed run must not differ in the last bit.
        classifiers = self._classifiers([s for s in sources if s.task.key not in self.board.failed])
        size = models.image_size(self.results.model)
        most = max(1, min(self.batch_size, CHUNK_BYTES // (3 * size * size)))
        jobs = [job for source in pending for job in source.jobs(size, most)]
        left = Counter(job.task for job in jobs)
        states = {s.task.key: (s, kinds.scorer(s.task, classifiers[s.task.key])) for s in pending}
        started = time.monotonic()
        for job, (chunk, embeddings) in zip(jobs, self.embedder.pictures(jobs), strict=True):
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
                    keys, columns = scorer.finish(self.texts.embed)
                    how = {**self.provenance, "seconds": round(time.monotonic() - started, 3)}
                    self.board.done(job.task, self.results.write(source, keys, columns, provenance=how))
                    started = time.monotonic()
                    del states[job.task]  # and the embeddings it holds
            except ArtifactError as error:
                self.board.fail(job.task, error)

    def _index(self, pending: list[TaskSource]) -> list[TaskSource]:
        """Read what the tars of the pending tasks hold; those that fit."""
        work = [partial(data.index_shard, path, s.parts[part]) for s in pending for part, path in s.shards]
        indices = self.embedder.executor.stream(attempt, work, name="index", quiet=True)
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
        words = {s.task.key: s.lists for s in sources}
        flat = [one for several in words.values() for one in several]
        if not flat:
            return {key: [] for key in words}
        made_of = [self.results.checkpoint, self.results.model, self.results.precision]
        key = digest_of([*made_of, [[one.classnames, one.templates] for one in flat]])
        place = self.results.folder / f".classifiers-{key[:16]}.npy"
        rows = _kept(place, sum(len(one.classnames) for one in flat))
        if rows is None:
            rows = np.concatenate(self.texts.classifiers(flat))
            write_bytes(place, _npy(rows))
        split = iter(np.split(rows, np.cumsum([len(one.classnames) for one in flat])[:-1]))
        return {key: [next(split) for _ in several] for key, several in words.items()}


def _kept(place: Path, classes: int) -> Floats | None:
    """The class embeddings that an evaluation which was stopped left; None if there are none, or they are damaged."""
    try:
        rows = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows if _are_unit(rows, classes) else None


def _are_unit(rows: Any, classes: int) -> bool:
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != classes:
        return False
    return bool(np.all(np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3))


def _npy(rows: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()
