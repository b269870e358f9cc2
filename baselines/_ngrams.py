"""Captions as bags of hashed n-grams, and how two sets of captions differ in them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from baselines._text import Words, mixed

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NEXT = np.uint64(0xD6E8FEB86659FD93)
"""Odd: tells `red dog` from `dog red`."""


def buckets(captions: Sequence[str], *, n: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Caption (M,) and bucket in range(width) (M,) of every n-gram of 1 to `n` words in `captions`."""
    words = Words.of(captions)
    starts, stops, row = words.spans()
    single = words.hashes(starts, stops)
    rows, hashes = [row], [single]
    grams = single
    for more in range(1, n):
        # The n-gram of more + 1 words from word i on is that of `more` words and the word behind it.
        grams = mixed(grams[:-1] * _NEXT + single[more:])
        inside = row[:-more] == row[more:]
        rows.append(row[:-more][inside])
        hashes.append(grams[inside])
    return np.concatenate(rows), (np.concatenate(hashes) % np.uint64(width)).astype(np.int64)


def counts(captions: Sequence[str], *, n: int, width: int) -> Counts:
    """(width,) how many n-grams of `captions` fall in each bucket."""
    return np.bincount(buckets(captions, n=n, width=width)[1], minlength=width)


def probabilities(counted: Counts) -> Floats:
    """(width,) share of each bucket, one n-gram added to each so that none is 0."""
    shares: Floats = (counted + 1) / (counted.sum() + len(counted))
    return shares


def divergence(target: Counts, other: Counts) -> float:
    """KL(target || other) of the smoothed shares, in nats."""
    p, q = probabilities(target), probabilities(other)
    return float(np.sum(p * np.log(p / q)))
