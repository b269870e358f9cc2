"""WinoGAViL: pick the pictures that people associated with a cue."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError
from harness.eval.data import Chunk, Part, Words
from harness.eval.metrics import MAX_CANDIDATES, Columns, Floats, chosen, padded
from harness.eval.suite import Task


def parts(task: Task) -> tuple[Part, ...]:
    """The instances, and the pictures they share."""
    return Part(folder="test", needs=("json",)), Part(folder="images", needs=("image",), rgb_first=False)


def objectives(words: Words | None) -> list[Words]:
    """No classes."""
    return []


def prompt(cue: str) -> str:
    """The reference's prompt for a cue: lower case, with its article."""
    cue = cue.lower()
    return f"{'An' if cue[0] in 'aeiou' else 'A'} {cue}"


def _instance(key: str, document: dict[str, Any]) -> tuple[str, list[str], list[str]]:
    """Prompt, candidates and associations of an instance; ArtifactError if it is none."""
    cue: Any = document.get("cue")
    candidates: Any = document.get("candidates")
    associated: Any = document.get("associations")
    lists = isinstance(candidates, list) and isinstance(associated, list)
    typed = isinstance(cue, str) and lists and all(isinstance(name, str) for name in [*candidates, *associated])
    if typed and cue and 0 < len(candidates) <= MAX_CANDIDATES and set(associated) <= set(candidates):
        return prompt(cue), candidates, associated
    raise ArtifactError(
        f"sample {key!r}: json member is no instance: a cue, 1 to {MAX_CANDIDATES} candidates, associations among them"
    )


class Scorer:
    """Keeps the instances and an embedding of each picture; answers when all are there."""

    def __init__(self, task: Task, classifiers: Sequence[Floats]) -> None:
        self.keys: list[str] = []
        self.instances: list[tuple[str, list[str], list[str]]] = []
        self.pictures: dict[str, int] = {}
        self.embeddings: list[Floats] = []

    def add(self, part: int, chunk: Chunk, embeddings: Floats | None) -> None:
        """One chunk of instances (part 0) or pictures (part 1); see kinds.Scorer."""
        if embeddings is not None:
            for key in chunk.keys:
                self.pictures[key] = len(self.pictures)
            self.embeddings.append(embeddings)
            return
        self.keys += chunk.keys
        for key, document in zip(chunk.keys, chunk.documents, strict=True):
            self.instances.append(_instance(key, document))

    def finish(self, encode_texts: Callable[[Sequence[str]], Floats]) -> tuple[list[str], Columns]:
        """Keys and columns of the predictions."""
        cues = encode_texts([cue for cue, _, _ in self.instances])
        pictures = np.concatenate(self.embeddings)
        picked: list[npt.NDArray[np.int64]] = []
        wanted: list[npt.NDArray[np.int64]] = []
        for key, cue, (_, candidates, associated) in zip(self.keys, cues, self.instances, strict=True):
            try:
                rows = [self.pictures[name] for name in candidates]
            except KeyError as error:
                raise ArtifactError(f"sample {key!r}: candidate {error} is not among the pictures") from error
            wanted.append(np.flatnonzero(np.isin(candidates, associated)))
            picked.append(chosen(pictures[rows] @ cue, len(wanted[-1])))
        return self.keys, {
            "candidates": np.array([len(candidates) for _, candidates, _ in self.instances]),
            "chosen": padded(picked, MAX_CANDIDATES),
            "associated": padded(wanted, MAX_CANDIDATES),
        }
