"""FairFace and UTKFace: four class lists for every picture, and who is in it as metadata."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError
from harness.eval.data import CLASSNAMES, Chunk, Part, Words
from harness.eval.kinds.classification import check_metadata
from harness.eval.metrics import NONHUMAN, OBJECTIVES, WHITE, Columns, Floats, best
from harness.eval.suite import Task

FEWEST = {"race": WHITE + 1, "gender": 2, "age": 2, "toxic": NONHUMAN.stop + 1}
"""Classes of each objective that the metrics tell apart; a shorter list has lost lines."""


def parts(task: Task) -> tuple[Part, ...]:
    """One folder: pictures with metadata; the labels are in the metadata."""
    return (Part(folder="test", needs=("image", "npy")),)


def objectives(words: Words) -> list[Words]:
    """The lines of each objective, split from `objective:text`; ArtifactError where there are too few."""
    lists = [words.of_objective(name) for name in OBJECTIVES]
    for name, one in zip(OBJECTIVES, lists, strict=True):
        if len(one.classnames) < FEWEST[name]:
            raise ArtifactError(
                f"{CLASSNAMES}: {len(one.classnames)} lines of '{name}:', the metrics need {FEWEST[name]} or more"
            )
    return lists


class Scorer:
    """Keeps the best class of each picture for each objective."""

    def __init__(self, task: Task, classifiers: Sequence[Floats]) -> None:
        self.task, self.classifiers = task, classifiers
        self.keys: list[str] = []
        self.predicted: list[npt.NDArray[np.int64]] = []
        self.metadata: list[npt.NDArray[np.int64]] = []

    def add(self, part: int, chunk: Chunk, embeddings: Floats | None) -> None:
        """One chunk; see kinds.Scorer."""
        assert embeddings is not None
        self.metadata.append(check_metadata(self.task, chunk))
        self.keys += chunk.keys
        self.predicted.append(np.hstack([best(embeddings @ classes.T, 1) for classes in self.classifiers]))

    def finish(self, encode_texts: Callable[[Sequence[str]], Floats]) -> tuple[list[str], Columns]:
        """Keys and columns of the predictions."""
        return self.keys, {"predicted": np.concatenate(self.predicted), "metadata": np.concatenate(self.metadata)}
