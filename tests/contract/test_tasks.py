"""Every task of every suite: its file is filled, and its kind can read, answer and score it."""

import numpy as np
import pytest

from harness.bootstrap import ratios
from harness.eval import kinds, metrics, suite
from harness.eval.data import Words

SUITES = suite.names()
TASKS = [(name, key) for name in SUITES for key in suite.load(name).tasks]
GROUPS = {"imagenet": 1, "shifts": 6, "vtab": 13, "retrieval": 3}


def test_every_task_file_is_in_the_suite_of_the_protocol():
    assert {path.stem for path in suite.task_files()} == {task.slug for task in suite.load("v1").tasks.values()}


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_scores_38_tasks_in_their_groups(name):
    chosen = suite.load(name)
    assert (len(chosen.tasks), len(chosen.scored)) == (40, 38)
    for group, count in GROUPS.items():
        assert sum(task.group == group for task in chosen.scored) == count
    folders = [task.folder for task in chosen.tasks.values()]
    assert len(set(folders)) == 40


def columns_of(task, rng, rows=60):
    """Random predictions with the columns that the task's scorer writes."""
    if task.kind == "retrieval":
        return metrics.retrieval_columns(
            rng.normal(size=(12, 8)), rng.normal(size=(60, 8)), np.repeat(np.arange(12), 5)
        )
    if task.kind == "winogavil":
        chosen = np.full((rows, metrics.MAX_CANDIDATES), -1)
        chosen[:, 0] = rng.integers(0, 5, rows)
        return {
            "candidates": rng.choice([5, 6, 10, 12], rows),
            "chosen": chosen,
            "associated": np.roll(chosen, 1, axis=0),
        }
    metadata = (
        np.stack([rng.integers(0, size or 3, rows) for size in task.metadata.values()], 1) if task.metadata else None
    )
    if task.metrics == "fairness_faces":
        return {"predicted": rng.integers(0, 2, (rows, 4)), "metadata": metadata}
    top = np.full((rows, metrics.TOP_CLASSES), -1)
    best = metrics.best(rng.normal(size=(rows, task.classes)), metrics.TOP_CLASSES)
    top[:, : best.shape[1]] = best
    columns = {"top": top, "target": rng.integers(0, task.classes, rows)}
    return columns if metadata is None else columns | {"metadata": metadata}


@pytest.mark.parametrize(("name", "key"), TASKS)
def test_a_task_can_be_read_answered_and_scored(name, key):
    task = suite.load(name).tasks[key]
    assert task.samples > 0 and task.version >= 1 and task.name
    assert (task.source is not None) == (name == "v1")
    assert (task.kind == "retrieval" or task.chance is not None) or task.kind == "fairness"
    assert bool(task.metadata) == (task.kind in ("wilds", "fairness"))
    parts = kinds.parts(task)
    assert parts[0].folder == "test"
    assert ("npy" in parts[0].needs) == bool(task.metadata)
    assert all(
        part.rgb_first == (task.kind not in ("retrieval", "winogavil")) for part in parts if "image" in part.needs
    )
    lines = tuple(f"{objective}:{i}" for objective in metrics.OBJECTIVES for i in range(metrics.NONHUMAN.stop + 1))
    words = Words(classnames=lines, templates=tuple(f"{objective}:{{c}}" for objective in metrics.OBJECTIVES))
    expected = {"retrieval": 0, "winogavil": 0}.get(task.kind, 4 if task.metrics == "fairness_faces" else 1)
    objectives = kinds.objectives(task, words if expected else None)
    assert len(objectives) == expected
    kinds.scorer(task, [np.zeros((3, 4), dtype=np.float32)] * expected)
    columns = columns_of(task, np.random.default_rng(0))
    values, counts = metrics.evaluate(task.metrics, columns)
    assert all(value is None or 0 <= value <= 1 for value in values.values())
    assert all(isinstance(count, int) for count in counts.values())
    if task.scored:
        score = values[task.main_metric]
        everything = np.ones((1, ratios(task, columns).units), dtype=np.int32)
        assert ratios(task, columns).scores(everything)[0] == pytest.approx(score, abs=1e-6)
