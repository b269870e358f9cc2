"""How often captions name the classes of the evaluation tasks.

A class is named where its words stand in the caption one after the other as whole words, whatever their case, the
last one also in its plural on -s or -es. A caption counts once for a class, however often it names it.
"No zero-shot without exponential data" (Udandarao et al. 2024) relates this frequency to zero-shot accuracy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.phrases import Phrases
from harness.words import Words

Ints = npt.NDArray[np.int64]

_ROWS = 1 << 15
"""Captions worked on at once."""


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Names of classes to look for."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> "ClassNames":
        """The different names that hold a word."""
        different = list(dict.fromkeys(names))
        return cls(tuple(name for name, words in zip(different, Words.of(different).each(), strict=True) if words))

    def count(self, captions: Sequence[str], weights: Ints) -> npt.NDArray[np.uint32]:
        """Captions (S, P) that name each of P names, for S sets with `weights` (S, N) of the N captions."""
        total = np.zeros((len(self.names), len(weights)), dtype=np.int64)
        for start in range(0, len(captions), _ROWS):
            rows = slice(start, start + _ROWS)
            total += _named(self.names, captions[rows]).T @ weights[:, rows].T
        return total.T.astype(np.uint32)


def _named(names: tuple[str, ...], captions: Sequence[str]) -> Any:
    """(N, P) 1 where a caption names one of P names, sparse."""
    from scipy import sparse

    phrases, meant = _spellings(names)
    caption, phrase = phrases.pairs(captions).T
    shape = (len(captions), len(phrases.spelled))
    found = sparse.csr_array((np.ones(len(caption), dtype=np.int64), (caption, phrase)), shape=shape) @ meant
    found.data[:] = 1  # however many of its spellings stand there
    return found


@lru_cache(maxsize=1)
def _spellings(names: tuple[str, ...]) -> tuple[Phrases, Any]:
    """The names and their plurals as phrases, and which of P names each of F phrases means: (F, P) of 1, sparse."""
    from scipy import sparse

    spelled = [(" ".join(words), place) for place, words in enumerate(Words.of(names).each())]
    spelled = [(f"{name}{end}", place) for name, place in spelled for end in ("", "s", "es")]
    phrases = Phrases([phrase for phrase, _ in spelled])
    number = {phrase.decode(): place for place, phrase in enumerate(phrases.spelled)}
    where = ([number[phrase] for phrase, _ in spelled], [place for _, place in spelled])
    shape = (len(number), len(names))
    return phrases, sparse.csr_array((np.ones(len(spelled), dtype=np.int64), where), shape=shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCoverage:
    """How often the captions of each set name the classes of one task."""

    key: str
    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    """By set: captions that name each class, repeats counted."""
    recalls: tuple[float | None, ...] | None = None
    """Accuracy of a trained model on each class, where there are results."""

    @property
    def size(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def named(self, of: str) -> int:
        """How many classes the captions of a set name at least once."""
        return sum(count > 0 for count in self.counts[of])

    def median(self, of: str) -> float:
        """Captions that name the median class."""
        return float(np.median(self.counts[of]))

    def rarest(self, most: int = 3) -> list[str]:
        """The classes that the subset names least often."""
        order = np.argsort(self.counts["subset"], kind="stable")[:most]
        return [self.classes[place] for place in order.tolist()]

    def centred(self) -> list[tuple[int, float]]:
        """`points` with accuracies less their mean over the task's classes, for tasks differ in how hard they are."""
        points = self.points()
        mean = sum(recall for _, recall in points) / max(len(points), 1)
        return [(count, recall - mean) for count, recall in points]

    def points(self) -> list[tuple[int, float]]:
        """Frequency in the subset and accuracy of each class that was measured."""
        if self.recalls is None:
            return []
        measured = zip(self.counts["subset"], self.recalls, strict=True)
        return [(count, recall) for count, recall in measured if recall is not None]
