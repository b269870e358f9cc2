"""How often captions name the classes of a task."""

import numpy as np

from harness.report.coverage import Phrases, TaskCoverage


def test_classes_are_named_by_whole_words() -> None:
    phrases = Phrases.of(["car", "Great White Shark", "bus", "", "great", "café", "buses", "car"])
    assert phrases.names == ("car", "Great White Shark", "bus", "great", "café", "buses")
    by_caption = {
        "A car, a CAR and two cars": {"car"},
        "a red carpet": set(),
        "great white sharks near buses": {"Great White Shark", "bus", "great", "buses"},
        "great shark": {"great"},
        "great-white_shark!": {"Great White Shark", "great"},
        "un CAFÉ": {"café"},
        "": set(),
    }
    named = {text: {phrases.names[place] for place in phrases.named(text)} for text in by_caption}
    assert named == by_caption
    weights = np.array([[1] * 7, [3, 0, 2, 0, 0, 0, 5]])
    counts = phrases.count(list(by_caption), weights)
    assert counts.tolist() == [[1, 2, 1, 3, 1, 1], [3, 2, 2, 2, 0, 2]]


def test_coverage_of_a_task() -> None:
    counts = {"pool": (9, 2, 1, 0), "subset": (4, 1, 0, 0)}
    task = TaskCoverage(key="t", name="T", classes=("a", "b", "c", "d"), counts=counts, recalls=(0.9, 0.5, None, 0.1))
    assert (task.size, task.named("pool"), task.named("subset"), task.median("subset")) == (4, 3, 2, 0.5)
    assert task.rarest() == ["c", "d", "b"]
    assert task.points() == [(4, 0.9), (1, 0.5), (0, 0.1)]
    assert [(count, round(apart, 9)) for count, apart in task.centred()] == [(4, 0.4), (1, 0.0), (0, -0.4)]
