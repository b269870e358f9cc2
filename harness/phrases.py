"""Phrases found in captions at word borders, all at once, by Aho-Corasick."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from harness.words import Words


class Phrases:
    """Finds phrases of one or more words in captions; both are compared by words in lower case (harness.words)."""

    spelled: list[bytes]
    """The different phrases as words, single spaces between them, in order."""

    def __init__(self, phrases: Sequence[str]) -> None:
        """Phrases that are equal as words count as one; those without a word are left out."""
        from ahocorasick_rs import BytesAhoCorasick

        lines = Words.of(phrases).text.split(b"\n")
        self.spelled = sorted({line.strip() for line in lines} - {b""})
        self._automaton = BytesAhoCorasick([b" %b " % phrase for phrase in self.spelled])

    def pairs(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """(M, 2) caption and phrase of every match, each pair once, in order."""
        words = Words.of(captions)
        found = self._automaton.find_matches_as_indexes(words.text, overlapping=True)
        if not found:
            return np.empty((0, 2), dtype=np.int64)
        phrase, start, _ = np.array(found, dtype=np.int64).T
        both = np.unique(words.rows(start) * len(self.spelled) + phrase)
        return np.stack(np.divmod(both, len(self.spelled)), axis=1)
