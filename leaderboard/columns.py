"""What the columns of a task's predictions may hold, by the task's own file.

Metrics and resampling count by class, group and index: a number takes as much memory as it is large.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from harness.errors import ArtifactError
from harness.eval.metrics import MAX_CANDIDATES, OBJECTIVES, TOP_CLASSES, TOP_RETRIEVED
from harness.eval.suite import Task

CAPTIONS = 20
"""Rows an image of a retrieval task at most: the image and its captions, of which there are five or a few more."""
MAX_NUMBER = 1 << 24
"""Largest number in a column that nothing is counted by."""


@dataclass(frozen=True)
class Column:
    """The whole numbers that a row of a column holds."""

    largest: tuple[int, ...]
    """At each place of the row."""
    smallest: int = 0
    """-1 where places may be empty."""
    wide: bool = True
    """The column is (N, places), not (N,)."""


def most_rows(task: Task) -> int:
    """Rows that the predictions of `task` have at most."""
    return task.samples * (CAPTIONS if task.kind == "retrieval" else 1)


def expected(task: Task) -> dict[str, Column]:
    """The columns of the predictions of `task`, without the key."""
    rows = most_rows(task)
    if task.kind == "retrieval":
        return {
            "query_is_image": _one(1), "top": Column((rows - 1,) * TOP_RETRIEVED, -1), "first": _one(rows),
            "last": _one(rows),
        }  # fmt: skip
    if task.kind == "winogavil":
        chosen = Column((MAX_CANDIDATES - 1,) * MAX_CANDIDATES, -1)
        return {"candidates": _one(MAX_CANDIDATES), "chosen": chosen, "associated": chosen}
    columns = {}
    if task.metadata:
        sizes = task.metadata.values()
        columns["metadata"] = Column(tuple(MAX_NUMBER if size is None else size - 1 for size in sizes), -1)
    if task.metrics == "fairness_faces":
        return columns | {"predicted": Column((MAX_NUMBER,) * len(OBJECTIVES))}
    classes = task.classes or MAX_NUMBER
    return columns | {"target": _one(classes - 1), "top": Column((classes - 1,) * TOP_CLASSES, -1)}


def _one(largest: int) -> Column:
    return Column((largest,), wide=False)


def check(columns: Mapping[str, npt.NDArray[Any]], task: Task) -> None:
    """ArtifactError unless `columns` are those of `task` and hold what theirs may."""
    known = expected(task)
    if set(columns) != set(known):
        raise ArtifactError(f"holds the columns {', '.join(columns)}; task {task.key} has {', '.join(known)}"[:300])
    for name, values in columns.items():
        column = known[name]
        shape = (len(values), len(column.largest)) if column.wide else (len(values),)
        if values.dtype.kind not in "iub" or values.shape != shape:
            raise ArtifactError(f"column {name} is of shape {values.shape}, whole numbers of {shape} are needed")
        for place, largest in zip(values.reshape(shape[0], -1).T, column.largest, strict=True):
            if place.size and not column.smallest <= int(place.min()) <= int(place.max()) <= largest:
                raise ArtifactError(
                    f"column {name} holds other than whole numbers from {column.smallest} to {largest:,}, "
                    f"as task {task.key} has them"
                )
