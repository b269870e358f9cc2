"""How the tasks of each kind are read and answered: pure NumPy over embeddings.

A kind says which parts its folders have (`parts`), which class lists it needs (`objectives`), and gives a `Scorer`
that collects what the model answered, chunk by chunk, and ends with the columns of harness.eval.predictions.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol

from harness.eval.data import Chunk, Part, Words
from harness.eval.kinds import classification, faces, retrieval, winogavil
from harness.eval.metrics import Columns, Floats
from harness.eval.suite import Task

EncodeTexts = Callable[[Sequence[str]], Floats]
"""Texts to unit embeddings (N, D)."""


class Scorer(Protocol):
    """Collects a task's chunks in the order of its parts, tars and samples."""

    def __init__(self, task: Task, classifiers: Sequence[Floats]) -> None:
        """`classifiers`: (C, D) unit class embeddings of each of the kind's objectives."""

    def add(self, part: int, chunk: Chunk, embeddings: Floats | None) -> None:
        """`embeddings` (N, D) are the unit embeddings of the chunk's pictures. ArtifactError for data out of range."""

    def finish(self, encode_texts: EncodeTexts) -> tuple[list[str], Columns]:
        """Keys and columns of the predictions."""


def of(task: Task) -> ModuleType:
    """The module of the task's kind: parts(task), objectives(words) and Scorer."""
    if task.metrics == "fairness_faces":
        return faces
    return {"retrieval": retrieval, "winogavil": winogavil}.get(task.kind, classification)


def parts(task: Task) -> tuple[Part, ...]:
    """The parts of the task's folder, the one whose samples are counted first."""
    found: tuple[Part, ...] = of(task).parts(task)
    return found


def objectives(task: Task, words: Words | None) -> list[Words]:
    """The class lists that the task is answered with; none without classes."""
    found: list[Words] = of(task).objectives(words)
    return found


def scorer(task: Task, classifiers: Sequence[Floats]) -> Scorer:
    """A new scorer for the task."""
    made: Scorer = of(task).Scorer(task, classifiers)
    return made
