"""Captions as bags of hashed n-grams, and how two sets of captions differ in them."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from harness.words import Hashes, Words, mixed

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NEXT = np.uint64(0xD6E8FEB86659FD93)
"""Odd: tells `red dog` from `dog red`."""


def orders(words: Hashes, row: npt.NDArray[np.int64], n: int) -> Iterator[tuple[Hashes, npt.NDArray[np.bool_]]]:
    """For 1, 2, … `n` words: hash of the n-gram that begins at each of `words` (M,), and whether it is in one caption.

    `row` (M,): caption of each word, ascending. The k-th pair of arrays is (M - k + 1,) long, or empty.
    """
    grams = words
    yield grams, np.ones(len(words), dtype=bool)
    for more in range(1, n):
        # The n-gram of more + 1 words from word i on is that of `more` words and the word behind it.
        grams = mixed(grams[:-1] * _NEXT + words[more:])
        yield grams, row[:-more] == row[more:]


def buckets(captions: Sequence[str], *, n: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Caption (M,) and bucket in range(width) (M,) of every n-gram of 1 to `n` words in `captions`."""
    words = Words.of(captions)
    starts, stops, row = words.spans()
    found = [(row[: len(grams)][inside], grams[inside])
             for grams, inside in orders(words.hashes(starts, stops), row, n)]  # fmt: skip
    rows, hashes = (np.concatenate([part[side] for part in found]) for side in (0, 1))
    return rows, (hashes % np.uint64(width)).astype(np.int64)


def counts(captions: Sequence[str], *, n: int, width: int) -> Counts:
    """(width,) how many n-grams of `captions` fall in each bucket."""
    return np.bincount(buckets(captions, n=n, width=width)[1], minlength=width)


def probabilities(counted: Counts) -> Floats:
    """(width,) share of each bucket, raised by 1e-8 so that none is 0.

    That little, as in the authors' code (p-lambda/dsir): a count added to each bucket would make what a small target
    never says likelier there than in a large pool.
    """
    shares: Floats = counted / max(counted.sum(), 1) + 1e-8
    return shares


def divergence(target: Counts, other: Counts) -> float:
    """KL(target || other) of the smoothed shares, in nats."""
    p, q = probabilities(target), probabilities(other)
    return float(np.sum(p * np.log(p / q)))
