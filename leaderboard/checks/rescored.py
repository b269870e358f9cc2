"""Scores recomputed: from stored predictions, then by evaluating the checkpoint again in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from harness import bootstrap
from harness.errors import ArtifactError, InfraError
from harness.eval import metrics, predictions
from harness.eval.suite import Task
from harness.records import read_record
from leaderboard import safe
from leaderboard.case import Case, Notes, SeedRun, SkippedError, error

METRIC_TOLERANCE = 1e-6
"""Metrics of the same predictions agree to single precision."""
MODEL_TOLERANCE = 0.005
"""Scores of the same weights on other hardware: a few borderline samples of a task fall differently."""
AVERAGE_TOLERANCE = 0.001


def predictions_of(case: Case, run: SeedRun, task: Task) -> tuple[list[str], metrics.Columns]:
    """Keys and columns of one task's stored predictions, size-checked before they are read."""
    path = f"{run.folder}/eval/predictions/{task.slug}.parquet"
    if path not in case.entry.record.inputs:
        raise ArtifactError(f"{path} is not part of the entry; predictions are needed to recompute scores")
    return safe.load_predictions(case.locate(path), task)


def rescore(case: Case) -> Notes:
    """Every metric of every task, recomputed from the stored predictions, is the one stated."""
    for run in case.runs:
        for key, record in run.tasks.items():
            task = case.entry.suite.tasks[key]
            where = f"{run.folder}/eval/predictions/{task.slug}.parquet"
            keys, columns = predictions_of(case, run, task)
            if len(set(keys)) != len(keys):
                yield error(where, "a sample stands twice")
            units = int(columns["query_is_image"].sum()) if task.kind == "retrieval" else len(keys)
            if units != task.samples:
                yield error(where, f"holds {units:,} samples, task {key} has {task.samples:,}")
                continue
            if predictions.digest(keys, columns) != record.payload.get("predictions"):
                yield error(where, "is not the file whose digest the task's record states; predictions were swapped")
                continue
            yield from _compare(case, where, task, columns, record.payload)


def _compare(case: Case, where: str, task: Task, columns: metrics.Columns, stated: dict[str, object]) -> Notes:
    try:
        values, counts = metrics.evaluate(task.metrics, columns)
    except (KeyError, ValueError, IndexError, TypeError) as problem:
        yield error(where, f"does not hold the columns that task {task.key} needs: {problem!r}"[:200])
        return
    said = stated["metrics"] if isinstance(stated["metrics"], dict) else {}
    for name in sorted({*values, *said}):
        true, value = values.get(name), said.get(name)
        agrees = true is value if None in (true, value) else abs(true - value) <= METRIC_TOLERANCE  # type: ignore[operator]
        if name not in values or name not in said or not agrees:
            yield error(where, f"{name} {value} stated, {true} recomputed")
    if stated["counts"] != counts:
        yield error(where, "counts of the groups are not those of the predictions")


def resampled(case: Case) -> Notes:
    """The replicates are those that the stored predictions give."""
    if case.payload.missing:
        return
    found = safe.load_array(case.locate("bootstrap.npy"), dtype="<f4", ndim=3)
    tasks = {
        task.key: bootstrap.task_replicates(
            task, [predictions_of(case, run, task)[1] for run in case.runs], replicates=found.shape[2]
        )
        for task in case.entry.suite.scored
    }
    recomputed = bootstrap.aggregate(case.entry.suite, tasks)
    if recomputed.shape != found.shape or np.abs(recomputed - found).max() > METRIC_TOLERANCE:
        yield error("bootstrap.npy", "is not what the stored predictions give")
    for stated in case.payload.tasks:
        if stated.score is not None:
            low, high = bootstrap.interval(tasks[stated.key].mean(axis=0), stated.score)
            if stated.low is None or stated.high is None or max(abs(stated.low - low), abs(stated.high - high)) > 1e-5:
                yield error("entry.json", f"task {stated.key}: its interval is not what the predictions give")


def reevaluate(case: Case) -> Notes:
    """The checkpoint, evaluated again here, gives the stated scores within the tolerance."""
    data = case.means.data_dir
    if data is None and case.payload.suite != "tiny":
        raise SkippedError("evaluating again needs the task data; give --data-dir DIR")
    tasks = _drawn(case)
    for run in case.runs:
        checkpoint = case.locate(f"{run.folder}/train/checkpoint.safetensors")
        with tempfile.TemporaryDirectory() as out:
            run_harness("harness.eval", evaluation(case, checkpoint, tasks, Path(out)), theirs=checkpoint)
            differences = []
            for task in tasks:
                again = read_record(Path(out) / f"{task.slug}.json", "task").payload["score"]
                stated = run.tasks[task.key].payload["score"]
                differences.append(abs(again - stated))
                # A worst group of few samples moves by one sample at a time.
                if differences[-1] > max(MODEL_TOLERANCE, 3 / task.samples):
                    yield error(run.folder, f"task {task.key}: {stated:.4f} stated, {again:.4f} when evaluated again")
            if len(tasks) == len(case.scored) and float(np.mean(differences)) > AVERAGE_TOLERANCE:
                yield error(run.folder, f"scores differ by {np.mean(differences):.4f} on average when evaluated again")
    case.evaluated = [task.key for task in tasks]


def _drawn(case: Case) -> list[Task]:
    scored = case.scored
    if case.means.tasks is None or case.means.tasks >= len(scored):
        return scored
    # Fresh entropy: a participant must not know which tasks will be looked at.
    chosen = np.random.default_rng().permutation(len(scored))[: case.means.tasks]
    return [scored[i] for i in sorted(chosen)]


def evaluation(case: Case, checkpoint: Path, tasks: list[Task], out: Path) -> dict[str, str]:
    """Settings of harness.eval that score `checkpoint` on `tasks` into the folder `out`."""
    settings = {
        "model": case.scale.model, "checkpoint": str(checkpoint), "suite": case.payload.suite, "out": str(out),
        "tasks": json.dumps([task.key for task in tasks]),
    }  # fmt: skip
    if case.means.data_dir is not None:
        settings["eval.data_dir"] = str(case.means.data_dir)
    return settings


def arguments(settings: dict[str, str]) -> list[str]:
    """The settings as a command of the harness takes them."""
    return [f"{key}={value}" for key, value in settings.items()]


def run_harness(module: str, settings: dict[str, str], *, theirs: Path) -> None:
    """Run a command of the harness in a process of its own on a file of the entry, `theirs`.

    Raises ArtifactError if the command says that this file is at fault, InfraError if it fails otherwise.
    """
    command = [sys.executable, "-m", module, *arguments(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        if done.returncode == ArtifactError.exit_code and str(theirs) in last:
            raise ArtifactError(last.replace(f"{theirs.parent}/", ""))
        raise InfraError(f"python -m {module} ended with code {done.returncode}: {last}")
