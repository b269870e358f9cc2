"""Scores under resampled test samples: how much a task's score depends on which samples it happens to hold.

Replicate b of a task draws its samples again with replacement. The draw depends on (task, b) alone, so replicate b
means the same test set for every model, and differences between models are paired. All of a task's main metric is a
mean or a minimum over groups of (sum of numerators / sum of denominators), so a replicate is three matrix products.

A caption of a retrieval task is drawn with its image. Pure NumPy and SciPy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from harness import order
from harness.errors import ConfigError
from harness.eval.metrics import Columns, jaccard, retrieval_hits
from harness.eval.suite import AGGREGATES, Suite, Task

REPLICATES = 1000
CHUNK = 1 << 20
"""Weights held at a time: 8 MB, and as much for each of their copies, so that memory does not grow with a task."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratios:
    """A score as ratios of sums over the rows of a task's predictions, one ratio a group."""

    numerator: Any
    denominator: Any
    present: Any
    """Sparse (G, N): what a row adds to each group's numerator and denominator; a group without `present` is empty."""
    unit: npt.NDArray[np.int64]
    """(N,) which drawn unit each row goes with."""
    units: int
    lowest: bool
    """The score is the lowest ratio, not their mean."""

    def scores(self, weights: npt.NDArray[Any]) -> Floats:
        """Scores (B,) when unit u counts `weights` (B, units) times."""
        rows = np.asarray(weights, dtype=np.float64).T[self.unit]
        top, bottom, there = self.numerator @ rows, self.denominator @ rows, self.present @ rows
        ratios = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=(there > 0) & (bottom > 0))
        empty = np.isnan(ratios).all(axis=0)
        ratios[:, empty] = 0.0
        return np.asarray(np.nanmin(ratios, axis=0) if self.lowest else np.nanmean(ratios, axis=0))


def _one_hot(groups: npt.NDArray[Any], values: npt.NDArray[Any], size: int) -> Any:
    rows = np.arange(len(groups))
    return sparse.csr_array((values.astype(np.float64), (groups, rows)), shape=(size, len(groups)))


def _grouped(
    hits: npt.NDArray[Any], groups: npt.NDArray[Any], *, lowest: bool = False, unit: npt.NDArray[np.int64] | None = None
) -> Ratios:
    size = int(groups.max()) + 1
    ones = _one_hot(groups, np.ones(len(groups)), size)
    rows = np.arange(len(groups)) if unit is None else unit
    return Ratios(
        numerator=_one_hot(groups, hits, size),
        denominator=ones,
        present=ones,
        unit=rows,
        units=int(rows.max()) + 1,
        lowest=lowest,
    )


def ratios(task: Task, columns: Columns) -> Ratios:
    """The main metric of `task` as ratios over its predictions; ConfigError for a metric that has no such form."""
    metric = task.main_metric
    if metric == "mean_recall@1":
        return _grouped(retrieval_hits(columns, 1), columns["query_is_image"].astype(np.int64), unit=_images(columns))
    if metric == "jaccard_score_10-12":
        large = columns["candidates"] >= 10
        full = _grouped(jaccard(columns), np.where(large, 0, 1))
        return Ratios(
            numerator=full.numerator[:1],
            denominator=full.denominator[:1],
            present=full.present[:1],
            unit=full.unit,
            units=full.units,
            lowest=False,
        )
    top, target = columns["top"], columns["target"].astype(np.int64)
    first = top[:, 0] == target
    everyone = np.zeros(len(target), dtype=np.int64)
    if metric in ("acc1", "acc_avg"):
        return _grouped(first, everyone)
    if metric == "mean_per_class_recall":
        return _grouped(first, target)
    if metric == "acc_top5_wg":
        return _grouped((top == target[:, None]).any(axis=1), columns["metadata"][:, 0], lowest=True)
    if metric in ("acc_worst_region", "acc_wg"):
        return _grouped(first, columns["metadata"][:, 0], lowest=True)
    if metric == "F1-macro_all":
        return _f1(top[:, 0].astype(np.int64), target)
    raise ConfigError(f"task {task.key}: main metric {metric!r} cannot be resampled; add it to harness.bootstrap")


def _images(columns: Columns) -> npt.NDArray[np.int64]:
    queries = columns["query_is_image"]
    images = np.cumsum(queries) - 1
    return np.where(queries, images, columns["first"]).astype(np.int64)


def _f1(predicted: npt.NDArray[np.int64], target: npt.NDArray[np.int64]) -> Ratios:
    size = int(max(predicted.max(), target.max())) + 1
    actual, ones = _one_hot(target, np.ones(len(target)), size), np.ones(len(target))
    return Ratios(
        numerator=2 * _one_hot(target, predicted == target, size),
        denominator=actual + _one_hot(predicted, ones, size),
        present=actual,
        unit=np.arange(len(target)),
        units=len(target),
        lowest=False,
    )


def weights(name: str, *, units: int, start: int, stop: int) -> npt.NDArray[np.int64]:
    """How often (stop - start, units) each unit is drawn in replicates start…stop-1 of the task `name`."""
    # A replicate takes whole blocks of four words, the unit in which the stream can be entered.
    blocks = -(-units // 8)
    words = order.raw(4 * blocks * (stop - start), what=f"bootstrap/{name}", seed=0, start=blocks * start)
    halves = words.astype("<u8", copy=False).view("<u4").reshape(stop - start, 8 * blocks)[:, :units]
    chosen = ((halves.astype(np.uint64) * np.uint64(units)) >> np.uint64(32)).astype(np.int64)
    chosen += np.arange(stop - start)[:, None] * units
    return np.bincount(chosen.ravel(), minlength=(stop - start) * units).reshape(stop - start, units)


def task_replicates(task: Task, runs: Sequence[Columns], *, replicates: int = REPLICATES) -> Floats:
    """Scores (S, B) of a task under B draws of its samples, for S runs with predictions on the same samples."""
    forms = [ratios(task, columns) for columns in runs]
    units = forms[0].units
    step = max(1, CHUNK // max(units, len(forms[0].unit)))
    out = np.empty((len(runs), replicates))
    for start in range(0, replicates, step):
        stop = min(start + step, replicates)
        drawn = weights(task.key, units=units, start=start, stop=stop)
        for run, form in enumerate(forms):
            out[run, start:stop] = form.scores(drawn)
    return out


def interval(replicates: Floats, score: float) -> tuple[float, float]:
    """95 % interval in [0, 1] of a score from its replicates (B,), centred on the score: minima resample too low."""
    low, high = np.percentile(replicates - replicates.mean() + score, [2.5, 97.5])
    return float(np.clip(low, 0, score)), float(np.clip(high, score, 1))


def aggregate(suite: Suite, tasks: Mapping[str, Floats]) -> npt.NDArray[np.float32]:
    """Aggregates (S, 5, B), in the order of AGGREGATES, of the replicates (S, B) of every scored task by key."""
    scored = suite.scored
    members = {name: [t.key for t in scored if name in ("average", t.group)] for name in AGGREGATES}
    means = [np.mean([tasks[key] for key in members[name]], axis=0) for name in AGGREGATES]
    return np.stack(means, axis=1).astype(np.float32)
