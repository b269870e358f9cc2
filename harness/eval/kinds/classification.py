"""Zero-shot classification, with or without metadata that make groups (WILDS, Dollar Street, GeoDE)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError
from harness.eval.data import Chunk, Part, Words, check_range
from harness.eval.metrics import TOP_CLASSES, Columns, Floats, best
from harness.eval.suite import Task


def parts(task: Task) -> tuple[Part, ...]:
    """One folder: pictures with labels, and metadata where the task has groups."""
    return (Part(folder="test", needs=("image", "cls", "npy") if task.metadata else ("image", "cls")),)


def objectives(words: Words) -> list[Words]:
    """The task's class list."""
    return [words]


def check_metadata(task: Task, chunk: Chunk) -> npt.NDArray[np.int64]:
    """The chunk's metadata (N, F); ArtifactError if a vector is not as long as the task's fields, or out of range."""
    metadata = chunk.metadata
    if metadata is None or metadata.shape[1] != len(task.metadata):
        width = 0 if metadata is None else metadata.shape[1]
        raise ArtifactError(f"npy members hold {width} numbers, task {task.key} has {len(task.metadata)} fields")
    for column, (name, size) in enumerate(task.metadata.items()):
        if size is not None:
            check_range(metadata[:, column], size, f"metadata field {name}", chunk.keys)
    return metadata


class Scorer:
    """Keeps the five best classes of each picture."""

    def __init__(self, task: Task, classifiers: Sequence[Floats]) -> None:
        self.task = task
        (self.classifier,) = classifiers
        self.keys: list[str] = []
        self.columns: dict[str, list[npt.NDArray[Any]]] = {"top": [], "target": []}
        if task.metadata:
            self.columns["metadata"] = []

    def add(self, part: int, chunk: Chunk, embeddings: Floats | None) -> None:
        """One chunk; see kinds.Scorer."""
        assert chunk.labels is not None and embeddings is not None
        check_range(chunk.labels, len(self.classifier), "label", chunk.keys)
        if self.task.metadata:
            self.columns["metadata"].append(check_metadata(self.task, chunk))
        self.keys += chunk.keys
        self.columns["top"].append(best(embeddings @ self.classifier.T, TOP_CLASSES))
        self.columns["target"].append(chunk.labels)

    def finish(self, encode_texts: Callable[[Sequence[str]], Floats]) -> tuple[list[str], Columns]:
        """Keys and columns of the predictions."""
        return self.keys, {name: np.concatenate(values) for name, values in self.columns.items()}
