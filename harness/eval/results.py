"""The folder of an evaluation: a record and a table of predictions a task, and evaluation.json over them. No torch."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from harness import bootstrap
from harness.errors import ArtifactError
from harness.eval import data, digests, metrics, predictions
from harness.eval.source import TaskSource
from harness.eval.suite import AGGREGATES, Suite, Task, slug
from harness.records import PROTOCOL, Json, Record, digest_of, fitting, read_record, write_record

EVALUATION = "evaluation.json"
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Task(BaseModel):
    """What the readers of a task's record rely on."""

    key: str
    version: int
    samples: int
    main_metric: str | None
    score: Fraction | None
    interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None
    metrics: dict[str, Fraction | None]
    counts: dict[str, int]
    model: str
    precision: str
    predictions: str


class _Evaluation(BaseModel):
    """What the readers of evaluation.json rely on."""

    suite: str
    model: str
    precision: str
    scores: dict[str, Fraction | None]
    aggregates: dict[str, Fraction | None]
    missing: list[str]
    results: dict[str, str]


def score(task: Task, columns: metrics.Columns) -> dict[str, Json]:
    """What predictions alone say about a task: the part of its record that `harness.rescore` recomputes."""
    values, counts = metrics.evaluate(task.metrics, columns)
    main = None if task.main_metric is None else values[task.main_metric]
    interval = None
    if main is not None:
        interval = list(bootstrap.interval(bootstrap.task_replicates(task, [columns])[0], main))
    return {
        "key": task.key, "version": task.version, "samples": task.samples, "main_metric": task.main_metric,
        "score": main, "interval": interval, "metrics": values, "counts": counts,
    }  # fmt: skip


def record_place(folder: Path, task: Task) -> Path:
    """Where the record of a task lies."""
    return folder / f"{task.slug}.json"


def predictions_place(folder: Path, task: Task) -> Path:
    """Where the predictions of a task lie."""
    return folder / "predictions" / f"{task.slug}.parquet"


def read(folder: Path) -> tuple[Record, dict[str, Record]]:
    """The evaluation's record and those of its tasks by key; ArtifactError if one is not what the evaluation names."""
    place = folder / EVALUATION
    evaluation = read_record(place, "evaluation")
    stated = fitting(place, evaluation, _Evaluation)
    if stated.aggregates.keys() != set(AGGREGATES) or "suite" not in evaluation.inputs:
        raise ArtifactError(f"{place}: has not the aggregates of a suite; run the evaluation again")
    found: dict[str, Record] = {}
    for key, digest in stated.results.items():
        place = folder / f"{slug(key)}.json"
        found[key] = _read_task(place, key)
        if found[key].digest != digest:
            raise ArtifactError(f"{place}: not the result that {EVALUATION} names; run the evaluation again")
    return evaluation, found


def _read_task(place: Path, key: str) -> Record:
    record = read_record(place, "task")
    stated = fitting(place, record, _Task)
    if stated.key != key or (stated.score is None) != (stated.interval is None):
        raise ArtifactError(f"{place}: not the result of task {key}; run the evaluation again")
    return record


def _follows(payload: dict[str, Json], task: Task, columns: metrics.Columns) -> bool:
    """Whether score and metrics are those of the predictions."""
    found, _ = metrics.evaluate(task.metrics, columns)
    stated = payload["metrics"]
    pairs = [(stated[name], value) for name, value in found.items() if name in stated]
    if task.main_metric is not None:
        pairs.append((payload["score"], found[task.main_metric]))
    return stated.keys() == found.keys() and all(_equal(*pair) for pair in pairs)


def _equal(one: float | None, other: float | None) -> bool:
    # Sums in another order differ in the last digits.
    return one is other if one is None or other is None else math.isclose(one, other, rel_tol=0, abs_tol=1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The results of one checkpoint in a folder."""

    folder: Path
    checkpoint: str
    """sha256 of the checkpoint."""
    model: str
    precision: str
    pictures: dict[str, Json] = field(default_factory=dict)
    """How a tag's pictures are normalised, see model.recorded."""

    def _inputs(self, task: Task, data_digest: str) -> dict[str, str]:
        return {"checkpoint": self.checkpoint, "data": data_digest, "task": task.digest}

    def exists(self, task: Task) -> bool:
        """Whether there is a result of the task, of whatever."""
        return record_place(self.folder, task).exists()

    def known(self, source: TaskSource) -> Record | None:
        """The record in the folder if everything it was made from is the same today, and its predictions are whole."""
        record = self._whole(source.task)
        if record is None:
            return None
        with data.reading(source.folder):
            source.digest = source.data_digest([digests.sha256(path) for _, path in source.shards])
        return record if record.inputs == self._inputs(source.task, source.digest) else None

    def stated(self, task: Task) -> Record | None:
        """The record in the folder if it is whole and the evaluation.json there names it; its data may be away."""
        record = self._whole(task)
        if record is None or record.inputs != self._inputs(task, record.inputs.get("data", "")):
            return None
        try:
            place = self.folder / EVALUATION
            named = fitting(place, read_record(place, "evaluation"), _Evaluation).results
        except ArtifactError:
            return None
        return record if named.get(task.key) == record.digest else None

    def _whole(self, task: Task) -> Record | None:
        """The record in the folder if it is of this model and follows from its predictions."""
        if not self.exists(task):
            return None
        try:
            record = _read_task(record_place(self.folder, task), task.key)
            keys, columns = predictions.read(predictions_place(self.folder, task))
        except ArtifactError:
            return None  # broken results are made again
        same = (
            record.protocol == PROTOCOL
            and record.payload["model"] == self.model
            and record.payload["precision"] == self.precision
            and record.payload.get("normalisation") == self.pictures.get("normalisation")
            and record.payload["predictions"] == predictions.digest(keys, columns)
            and (record.payload["score"] is not None) == task.scored
            and _follows(record.payload, task, columns)
        )
        return record if same else None

    def write(
        self, source: TaskSource, keys: list[str], columns: metrics.Columns, *, provenance: dict[str, Any]
    ) -> Record:
        """Write the predictions of a task, then its record; ArtifactError if its data hold nothing to score."""
        task, words = source.task, source.words
        scored = score(task, columns)
        if task.scored and scored["score"] is None:
            raise ArtifactError(f"{source.folder}: no sample counts for {task.main_metric}, the task's score")
        predictions.write(predictions_place(self.folder, task), keys, columns)
        payload: dict[str, Json] = {
            **scored,
            "model": self.model,
            "precision": self.precision,
            **self.pictures,
            "classes": task.classes,
            "classnames": digest_of(words.classnames) if words else None,
            "templates": digest_of(words.templates) if words else None,
            "predictions": predictions.digest(keys, columns),
        }
        record = Record(kind="task", inputs=self._inputs(task, source.digest), payload=payload, provenance=provenance)
        write_record(record_place(self.folder, task), record)
        return record

    def summary(self, suite: Suite, records: dict[str, Record], *, provenance: dict[str, Any]) -> Record:
        """Write evaluation.json over `records` by task key; it is complete if no task of the suite is missing."""
        scores = {key: record.payload["score"] for key, record in sorted(records.items())}
        missing = [key for key in suite.tasks if key not in records]
        payload: dict[str, Json] = {
            "suite": suite.name,
            "model": self.model,
            "precision": self.precision,
            "scores": scores,
            "aggregates": suite.aggregate(scores),
            "complete": not missing,
            "missing": missing,
            "results": {key: record.digest for key, record in sorted(records.items())},
        }
        inputs = {"checkpoint": self.checkpoint, "suite": suite.digest}
        record = Record(kind="evaluation", inputs=inputs, payload=payload, provenance=provenance)
        if not self._holds(record):
            write_record(self.folder / EVALUATION, record)
        return record

    def _holds(self, record: Record) -> bool:
        try:
            return read_record(self.folder / EVALUATION, record.kind).digest == record.digest
        except ArtifactError:
            return False
