"""How often captions name the classes of a task."""

import numpy as np
import pytest

from harness.report import coverage
from harness.report.coverage import ClassNames, TaskCoverage


def test_classes_are_named_by_whole_words() -> None:
    classes = ClassNames.of(["car", "Great White Shark", "bus", "", "great", "café", "buses", "--", "car", "बाघ"])
    assert classes.names == ("car", "Great White Shark", "bus", "great", "café", "buses", "बाघ")
    by_caption = {
        "A car, a CAR and two cars": {"car"},
        "a red carpet": set(),
        "great white sharks near buses": {"Great White Shark", "bus", "great", "buses"},
        "great shark": {"great"},
        "great-white_shark!": {"Great White Shark", "great"},
        "un CAFE\u0301": {"café"},
        "एक बाघ": {"बाघ"},
        "": set(),
    }
    counts = classes.count(list(by_caption), np.eye(len(by_caption), dtype=np.int64))
    named = [{classes.names[place] for place in np.flatnonzero(row)} for row in counts]
    assert named == list(by_caption.values()) and counts.max() == 1
    weights = np.array([[1] * 8, [3, 0, 2, 0, 0, 0, 0, 5]])
    assert classes.count(list(by_caption), weights).tolist() == [[1, 2, 1, 3, 1, 1, 1], [3, 2, 2, 2, 0, 2, 0]]


def test_many_captions_count_as_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ClassNames.of(["red", "red car"])
    captions = ["red", "two red cars", "blue"] * 5
    weights = np.arange(30).reshape(2, 15)
    whole = classes.count(captions, weights)
    assert whole.tolist() == [[weights[i, :][np.arange(15) % 3 < 2].sum(), weights[i, 1::3].sum()] for i in (0, 1)]
    monkeypatch.setattr(coverage, "_ROWS", 4)
    assert classes.count(captions, weights).tolist() == whole.tolist()


def test_classes_without_a_word() -> None:
    assert ClassNames.of(["", "--"]).count(["a"], np.ones((3, 1), dtype=np.int64)).shape == (3, 0)


def test_coverage_of_a_task() -> None:
    counts = {"pool": (9, 2, 1, 0), "subset": (4, 1, 0, 0)}
    task = TaskCoverage(key="t", name="T", classes=("a", "b", "c", "d"), counts=counts, recalls=(0.9, 0.5, None, 0.1))
    assert (task.size, task.named("pool"), task.named("subset"), task.median("subset")) == (4, 3, 2, 0.5)
    assert task.rarest() == ["c", "d", "b"]
    assert task.points() == [(4, 0.9), (1, 0.5), (0, 0.1)]
    assert [(count, round(apart, 9)) for count, apart in task.centred()] == [(4, 0.4), (1, 0.0), (0, -0.4)]
