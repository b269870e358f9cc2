"""An n-gram language model of captions, by words, with Witten and Bell's smoothing.

The chance of a word after a context of c words in all, T of them different, is that of the word among those c, and with
the weight T / (c + T) its chance after the context shortened by a word (Witten and Bell 1991, in the interpolated form
of Chen and Goodman 1998). The shortest context is none; behind it each of the words that were learned, and one for all
others, have the same chance. So the chances after any context sum to 1. Captions begin and end with a mark, and the end
is predicted like a word. There is no network and no knowledge but of the texts it learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from baselines import _ngrams
from harness.nearest import load
from harness.words import Hashes, Words

_START, _END = np.uint64(1), np.uint64(2)
"""The marks' hashes."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """The n-grams that were learned, of 1 to `n` words; 16 bytes each."""

    n: int
    unknown: float
    """Chance of a word that was never learned, after no context."""
    hashes: Hashes
    """(G,) ascending."""
    values: Floats
    """(G, 2): the n-gram's last word among those that follow its context, c(n-gram) / (c + T); and, where the n-gram is
    a context itself, the weight T / (c + T) of shorter ones (1 where it is none)."""

    @classmethod
    def learned(cls, texts: Sequence[str], n: int) -> "Model":
        """From `texts` that hold at least one word between them."""
        tokens, row = _tokens(texts)
        known, times = np.unique(tokens[tokens != _START], return_counts=True)
        weight = len(known) / (times.sum() + len(known))
        hashes = [np.append(known, _START)]
        shares = [np.append(times / (times.sum() + len(known)), 0.0)]
        rests = []
        before = tokens
        for grams, inside in list(_ngrams.orders(tokens, row, n))[1:]:
            # `before` is one word shorter: the context of each n-gram stands at the same place.
            found, first, times = np.unique(grams[inside], return_index=True, return_counts=True)
            contexts, whose = np.unique(before[: len(grams)][inside][first], return_inverse=True)
            types = np.bincount(whose, minlength=len(contexts))
            total = np.bincount(whose, weights=times, minlength=len(contexts)) + types
            rests.append(_spread(hashes[-1], contexts, types / total))
            hashes.append(found)
            shares.append(times / total[whose])
            before = grams
        rests.append(np.ones(len(hashes[-1])))
        every = np.concatenate(hashes)
        order = np.argsort(every)
        values = np.stack([np.concatenate(shares), np.concatenate(rests)], axis=1)[order].astype(np.float32)
        return cls(n, weight / (len(known) + 1), every[order], values)

    def save(self, folder: Path) -> None:
        """Two files of arrays in `folder`."""
        np.save(folder / "grams.npy", self.hashes, allow_pickle=False)
        np.save(folder / "grams-values.npy", self.values, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, *, n: int, unknown: float) -> "Model":
        """What `save` wrote, memory-mapped."""
        return cls(n, unknown, load(str(folder / "grams.npy"), 1), load(str(folder / "grams-values.npy")))

    def log_chances(self, captions: Sequence[str]) -> Floats:
        """(N,) mean logarithm (nats) of the chance of each word of a caption and of its end; NaN where it has no word.

        Minus it is the cross-entropy; exp of that is the perplexity.
        """
        tokens, row = _tokens(captions)
        chance = np.empty(len(tokens))
        before = np.empty(0, dtype=np.int64)
        for k, (grams, inside) in enumerate(_ngrams.orders(tokens, row, self.n)):
            if k == 0:
                before = self._places(grams)
                chance = self.unknown + np.where(before >= 0, self.values[before, 0], 0.0)
                continue
            # Behind a context that was never seen a longer one is none the wiser.
            seen = np.flatnonzero(inside & (before[: len(grams)] >= 0))
            place = self._places(grams[seen])
            rest = self.values[before[seen], 1]
            chance[seen + k] = np.where(place >= 0, self.values[place, 0], 0.0) + rest * chance[seen + k]
            before = np.full(len(grams), -1, dtype=np.int64)
            before[seen] = place
        told = tokens != _START
        words = np.bincount(row[told], minlength=len(captions))
        total = np.bincount(row[told], weights=np.log(chance[told]), minlength=len(captions))
        means: Floats = np.divide(total, words, out=np.full(len(captions), np.nan), where=words > 0).astype(np.float32)
        return means

    def _places(self, grams: Hashes) -> npt.NDArray[np.int64]:
        """(M,) place of each of `grams` (M,) in the table, -1 where it is not there."""
        place = np.searchsorted(self.hashes, grams)
        place[place == len(self.hashes)] = 0
        return np.where(self.hashes[place] == grams, place, -1)


def _tokens(captions: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hash and caption (M,) of each word between its caption's marks; captions without a word have no marks either."""
    words = Words.of(captions)
    starts, stops, row = words.spans()
    counts = np.bincount(row, minlength=len(captions))
    sizes = np.where(counts > 0, counts + 2, 0)
    behind = np.cumsum(sizes)
    tokens = np.full(int(sizes.sum()), _END)
    tokens[(behind - sizes)[counts > 0]] = _START
    marks = np.cumsum(2 * (counts > 0)) - 1
    tokens[np.arange(len(row)) + marks[row]] = words.hashes(starts, stops)
    return tokens, np.repeat(np.arange(len(captions)), sizes)


def _spread(hashes: Hashes, contexts: Hashes, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(G,) the value of each of `hashes` (G,) that is among the ascending `contexts` (C,), 1 for the others."""
    place = np.minimum(np.searchsorted(contexts, hashes), len(contexts) - 1)
    return np.where(contexts[place] == hashes, values[place], 1.0)
