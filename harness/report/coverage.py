"""How often captions name the classes of the evaluation tasks.

A class is named where its words stand in the caption one after the other as whole words, whatever their case, the
last one also in its plural on -s or -es. A caption counts once for a class, however often it names it.
"No zero-shot without exponential data" (Udandarao et al. 2024) relates this frequency to zero-shot accuracy.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> tuple[str, ...]:
    """The words of a text: stretches of letters and digits, case folded."""
    return tuple(_WORD.findall(text.casefold()))


@dataclass(frozen=True, slots=True)
class Phrases:
    """Phrases to look for."""

    names: tuple[str, ...]
    """Each phrase once, in the order of its number."""
    spelled: Mapping[tuple[str, ...], tuple[int, ...]]
    """Words, one after the other, to the numbers of the phrases that they name."""
    lengths: Mapping[str, tuple[int, ...]]
    """First word to how many words there may be."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "Phrases":
        """The different names that hold a word."""
        spelled: dict[tuple[str, ...], tuple[int, ...]] = {}
        lengths: dict[str, set[int]] = {}
        different = tuple(dict.fromkeys(name for name in names if words(name)))
        for place, name in enumerate(different):
            *front, last = words(name)
            for end in (last, f"{last}s", f"{last}es"):
                phrase = (*front, end)
                spelled[phrase] = (*spelled.get(phrase, ()), place)
                lengths.setdefault(phrase[0], set()).add(len(phrase))
        return cls(different, spelled, {first: tuple(sorted(there)) for first, there in lengths.items()})

    def named(self, caption: str) -> set[int]:
        """Numbers of the phrases that a caption names."""
        spoken = words(caption)
        return {
            place
            for start, word in enumerate(spoken)
            for length in self.lengths.get(word, ())
            for place in self.spelled.get(spoken[start : start + length], ())
        }

    def count(self, captions: Sequence[str], weights: Ints) -> npt.NDArray[np.uint32]:
        """Captions (S, P) that name each of P phrases, for S sets with `weights` (S, N) of the N captions."""
        found = [(place, row) for row, caption in enumerate(captions) for place in self.named(caption)]
        counts = np.zeros((len(weights), len(self.names)), dtype=np.uint32)
        if found:
            places, rows = np.array(found, dtype=np.int64).T
            for total, weight in zip(counts, weights, strict=True):
                total += np.rint(np.bincount(places, weights=weight[rows], minlength=len(total))).astype(np.uint32)
        return counts


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
