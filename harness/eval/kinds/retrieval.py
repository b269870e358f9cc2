"""Image-text retrieval: which captions belong to a picture, which picture to a caption."""

from collections.abc import Callable, Sequence

import numpy as np

from harness.errors import ArtifactError
from harness.eval.data import Chunk, Part, Words
from harness.eval.metrics import Columns, Floats, retrieval_columns
from harness.eval.suite import Task


def parts(task: Task) -> tuple[Part, ...]:
    """One folder: pictures with their captions."""
    return (Part(folder="test", needs=("image", "json"), rgb_first=False),)


def objectives(words: Words | None) -> list[Words]:
    """No classes."""
    return []


class Scorer:
    """Keeps all embeddings and captions; answers when all are there."""

    def __init__(self, task: Task, classifiers: Sequence[Floats]) -> None:
        self.keys: list[str] = []
        self.images: list[Floats] = []
        self.captions: list[list[str]] = []

    def add(self, part: int, chunk: Chunk, embeddings: Floats | None) -> None:
        """One chunk; see kinds.Scorer."""
        assert embeddings is not None
        for key, document in zip(chunk.keys, chunk.documents, strict=True):
            captions = document.get("captions")
            if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
                raise ArtifactError(f"sample {key!r}: json member holds no list of captions")
            self.captions.append(captions)
        self.keys += chunk.keys
        self.images.append(embeddings)

    def finish(self, encode_texts: Callable[[Sequence[str]], Floats]) -> tuple[list[str], Columns]:
        """Keys and columns of the predictions: pictures as queries, then captions as `KEY#number`."""
        texts = [text for captions in self.captions for text in captions]
        index = np.repeat(np.arange(len(self.captions)), [len(captions) for captions in self.captions])
        columns = retrieval_columns(np.concatenate(self.images), encode_texts(texts), index)
        named = zip(self.keys, self.captions, strict=True)
        return self.keys + [f"{key}#{number}" for key, captions in named for number in range(len(captions))], columns
