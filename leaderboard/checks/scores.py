"""Scores: every task once, on all its samples, and aggregates that follow from them."""

import math
import re
import statistics
from typing import Any

import numpy as np

from harness.bootstrap import REPLICATES
from harness.eval.suite import AGGREGATES, Task
from harness.records import Record
from leaderboard import safe
from leaderboard.case import Case, Notes, SeedRun, error, warning

TOLERANCE = 1e-9
"""Sums of the same numbers in another order differ by less."""
ABOVE_BEST = 0.03
"""An aggregate this far above the best one on record is looked at by a person."""
TASK_ABOVE_BEST = 0.15
"""So is a single task: between the shipped entries the best stands up to .085 above the second."""
BELOW_CHANCE = 5.0
"""So many standard errors below chance, a score means that labels were mixed up."""
_NAME = re.compile(r"[A-Za-z0-9_@:.+-]{1,80}")


def tasks(case: Case) -> Notes:
    """Each task of the suite stands once, or is named as missing."""
    keys = [task.key for task in case.payload.tasks]
    known = case.entry.suite.tasks
    for key in sorted(set(keys)):
        if keys.count(key) > 1:
            yield error("entry.json", f"task {key} stands {keys.count(key)} times")
        if key not in known:
            yield error("entry.json", f"task {key} is not in suite {case.payload.suite}")
    for key in known:
        if (key in keys) == (key in case.payload.missing):
            yield error("entry.json", f"task {key} is neither among the results nor named as missing, or both")
        for run in case.runs:
            if (key in run.tasks) != (key in keys):
                yield error(run.folder, f"result of task {key} does not agree with entry.json")
    for run in case.runs:
        listed = run.evaluation.payload.get("results")
        true = {key: record.digest for key, record in run.tasks.items()}
        if listed != true:
            yield error(f"{run.folder}/eval/evaluation.json", "results are not the digests of the task records")
        if run.evaluation.inputs.get("suite") != case.entry.suite.digest:
            yield error(f"{run.folder}/eval/evaluation.json", "was made with another version of the suite")
        named = {
            path.split("/")[-1] for path in case.entry.record.inputs if re.fullmatch(rf"{run.folder}/eval/[^/]+", path)
        }
        for name in sorted(named - {f"{task.slug}.json" for task in known.values()} - {"evaluation.json"}):
            yield error(f"{run.folder}/eval/{name}", "is not a task of the suite")


def counts(case: Case) -> Notes:
    """Each result is of the suite's version of the task and of all its samples; equal data on all seeds."""
    for run in case.runs:
        for key, record in run.tasks.items():
            task, where = case.entry.suite.tasks[key], f"{run.folder}/eval/{case.entry.suite.tasks[key].slug}.json"
            for what, true in (("key", key), ("samples", task.samples), ("main_metric", task.main_metric),
                               ("version", task.version), ("model", case.scale.model),
                               ("precision", run.config.payload.get("eval_precision"))):  # fmt: skip
                if record.payload.get(what) != true:
                    yield error(where, f"{what} is {str(record.payload.get(what))[:60]}, should be {true}")
            if record.inputs.get("task") != task.digest:
                yield error(where, "was made with another version of the task")
            if record.inputs.get("data") != case.runs[0].tasks[key].inputs.get("data"):
                yield error(where, f"was evaluated on other data than {case.runs[0].folder}")
    for stated in case.payload.tasks:
        known = case.entry.suite.tasks.get(stated.key)
        if known is not None and stated.samples != known.samples:
            yield error("entry.json", f"task {stated.key}: {stated.samples:,} samples, the suite has {known.samples:,}")


def values(case: Case) -> Notes:
    """Every metric is a fraction or null, the main metric is the score, and entry.json repeats the records."""
    for run in case.runs:
        for key, record in run.tasks.items():
            yield from _metrics(
                case.entry.suite.tasks[key], f"{run.folder}/eval/{case.entry.suite.tasks[key].slug}.json", record
            )
        stated = run.evaluation.payload.get("scores")
        if stated != {key: record.payload.get("score") for key, record in run.tasks.items()}:
            yield error(f"{run.folder}/eval/evaluation.json", "scores are not those of the task records")
    for task in case.payload.tasks:
        seeds = [_score(run, task.key) for run in case.runs]
        if task.seeds != seeds:
            yield error("entry.json", f"task {task.key}: scores by seed {task.seeds}, the records say {seeds}")
        elif not _close(task.score, _mean(seeds)):
            yield error(
                "entry.json", f"task {task.key}: score {_show(task.score)} stated, {_show(_mean(seeds))} recomputed"
            )


def _metrics(task: Task, where: str, record: Record) -> Notes:
    metrics, numbers = record.payload.get("metrics"), record.payload.get("counts")
    if not isinstance(metrics, dict) or not isinstance(numbers, dict):
        yield error(where, "metrics or counts is not an object")
        return
    for name, value in metrics.items():
        if not _NAME.fullmatch(name) or not (value is None or _is_fraction(value)):
            yield error(where, f"metric {name[:60]!r} is {str(value)[:40]}, not a fraction in [0, 1]")
    for name, value in numbers.items():
        if type(value) is not int or value < 0:
            yield error(where, f"count {name[:60]!r} is {str(value)[:40]}")
    score = record.payload.get("score")
    if score is not None and not _is_fraction(score):
        yield error(where, f"score is {str(score)[:40]}, not a fraction in [0, 1]")
    if task.main_metric is not None and score != metrics.get(task.main_metric):
        yield error(where, f"score {score} is not the main metric {task.main_metric} {metrics.get(task.main_metric)}")


def aggregates(case: Case) -> Notes:
    """The five aggregates, recomputed from the tasks, are those stated."""
    by_seed = []
    for run in case.runs:
        recomputed = case.entry.suite.aggregate({key: _score(run, key) for key in run.tasks})
        by_seed.append(recomputed)
        stated = run.evaluation.payload.get("aggregates")
        for name in AGGREGATES:
            value = stated.get(name) if isinstance(stated, dict) else None
            if not _close(value, recomputed[name]):
                yield error(f"{run.folder}/eval/evaluation.json", _differs(name, value, recomputed[name]))
    for name in AGGREGATES:
        seeds = [values[name] for values in by_seed]
        said = case.payload.aggregates.get(name)  # type: ignore[call-overload]
        if said is None:
            yield error("entry.json", f"aggregate {name} is missing")
            continue
        known = [value for value in seeds if value is not None]
        std = statistics.stdev(known) if len(known) == len(seeds) > 1 else None
        if len(said.seeds) != len(seeds) or not all(map(_close, said.seeds, seeds)):
            yield error("entry.json", f"aggregates: {name} by seed is not what the tasks give")
        if not _close(said.mean, _mean(seeds)):
            yield error("entry.json", "aggregates: " + _differs(name, said.mean, _mean(seeds)))
        if not _close(said.std, std):
            yield error("entry.json", "aggregates: " + _differs(f"std of {name}", said.std, std))


def intervals(case: Case) -> Notes:
    """Intervals hold their scores; the replicates have the right shape and lie around the aggregates."""
    for task in case.payload.tasks:
        low, high = task.low, task.high
        if task.score is not None and not case.payload.missing and (low is None or high is None):
            yield error("entry.json", f"task {task.key}: there is no interval")
        elif task.score is not None and low is not None and high is not None and not low <= task.score <= high:
            yield error("entry.json", f"task {task.key}: score {task.score} lies outside its interval [{low}, {high}]")
    if case.payload.missing:
        return
    if "bootstrap.npy" not in case.entry.record.inputs:
        yield error("entry.json", "there is no bootstrap.npy; pack the entry again")
        return
    replicates = safe.load_array(case.locate("bootstrap.npy"), dtype="<f4", ndim=3)
    if replicates.shape != (expected := (len(case.runs), len(AGGREGATES), REPLICATES)):
        yield error("bootstrap.npy", f"shape {replicates.shape}, expected {expected}")
    elif not np.isfinite(replicates).all() or replicates.min() < 0 or replicates.max() > 1:
        yield error("bootstrap.npy", "holds numbers that are not fractions in [0, 1]")
    else:
        measured = np.array([[case.payload.aggregates[n].seeds[s] for n in AGGREGATES] for s in range(len(case.runs))])  # type: ignore[index]
        far = np.abs(replicates.mean(axis=2) - measured) > 0.05
        if far.any():
            yield error("bootstrap.npy", "replicates do not lie around the aggregates")


def bounds(case: Case) -> Notes:
    """Scores are plausible: not far below chance, and no aggregate or task far above everything on record."""
    for task in case.scored:
        if task.chance is None or task.main_metric != "acc1":
            continue
        error_of_chance = math.sqrt(task.chance * (1 - task.chance) / task.samples)
        for run in case.runs:
            score = _score(run, task.key)
            if score is not None and score < task.chance - max(BELOW_CHANCE * error_of_chance, 0.5 * task.chance):
                yield warning(run.folder, f"task {task.key}: {score:.3f} lies far below chance {task.chance:.3f}")
    best = case.means.best_known.get(case.payload.scale, {})
    stated: dict[str, float | None] = {name: value.mean for name, value in case.payload.aggregates.items()}
    stated |= {task.key: task.score for task in case.payload.tasks}
    above = [
        f"{name} {value:.3f}, the best on record at this scale is {best[name]:.3f}"
        for name, value in stated.items()
        if value is not None
        and name in best
        and value > best[name] + (ABOVE_BEST if name in AGGREGATES else TASK_ABOVE_BEST)
    ]
    if above:
        more = f"; and {len(above) - 3} more" if len(above) > 3 else ""
        yield warning("entry.json", f"too good: {'; '.join(above[:3])}{more}; rescore it")


def repeated(case: Case) -> Notes:
    """Two seeds never give the same weights or the same predictions on every task."""
    for i, run in enumerate(case.runs):
        for other in case.runs[:i]:
            if run.train.payload.get("checkpoint") == other.train.payload.get("checkpoint"):
                yield error(run.folder, f"has the same checkpoint as {other.folder}; seeds must be trained apart")
            keys = [key for key in run.tasks if key in other.tasks]
            same = [run.tasks[k].payload.get("predictions") == other.tasks[k].payload.get("predictions") for k in keys]
            if same and all(same):
                yield error(run.folder, f"has the same predictions as {other.folder} on every task")


def _score(run: SeedRun, key: str) -> float | None:
    record = run.tasks.get(key)
    value = None if record is None else record.payload.get("score")
    return value if _is_fraction(value) else None


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _close(stated: Any, true: float | None) -> bool:
    if stated is None or true is None:
        return stated is None and true is None
    return isinstance(stated, int | float) and abs(stated - true) <= TOLERANCE


def _differs(name: str, stated: Any, true: float | None) -> str:
    return f"{name} {_show(stated)} stated, {_show(true)} recomputed"


def _show(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else str(value)[:40]
