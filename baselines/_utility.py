"""The law of Goyal et al. (2024): how the error falls with samples seen, on buckets of different utility, repeated.

While a model sees pairs for the first time the error falls as a power of the samples seen; the power is the bucket's
utility. It halves after `half_life` repeats. Of several buckets together the utility is the mean over their pairs, and
a bucket that is one p-th of them has p times its half-life.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness import ConfigError
from harness.records import StrictModel

Positive = Annotated[float, Field(gt=0)]
Sizes = npt.NDArray[np.int64]
"""(K,) pairs of each bucket, the best first."""


class Fit(StrictModel):
    """What small runs have told about the buckets, the best one first.

    The defaults are those that the paper's code publishes for the best four tenths of medium by T-MARS score, scored on
    ImageNet. Other scores and scales have others.
    """

    utility: list[Positive] = Field(default=[0.16, 0.125, 0.1, 0.085], min_length=1)
    """Power with which the error falls on fresh pairs of each bucket."""
    half_life: list[Positive] = Field(default=[6.73, 8.55, 5.27, 2.27], min_length=1)
    """Repeats after which the utility of each bucket has halved."""
    origin: Positive = 1 / 32
    """Samples seen, as a part of the pool, at which all buckets are equally good (the paper: 4 of 128 million)."""


class Run(StrictModel):
    """A model trained on one bucket alone."""

    bucket: int = Field(ge=0)
    """0: the best."""
    pairs: int = Field(gt=0)
    """Of the bucket."""
    samples: int = Field(gt=0)
    """Seen in training, repeats counted."""
    error: float = Field(gt=0, le=1)
    """1 - score."""


class Runs(StrictModel):
    """Small runs that a fit is made from: for each bucket at least two, with different numbers of samples."""

    runs: list[Run] = Field(min_length=2)
    floor: float = Field(default=0.0, ge=0, lt=1)
    """Error that no number of samples removes."""


def promise(fit: Fit, sizes: Sizes, chosen: Sequence[int], samples: int, origin: float) -> float:
    """-log of the removable error that is left after training on the `chosen` buckets, up to a constant.

    `samples`: seen in training, repeats counted; `origin`: as in Fit, but in samples.
    """
    pairs = int(sizes[list(chosen)].sum())
    share = sizes[list(chosen)] / pairs
    utility, half_life = (np.array(values)[list(chosen)] for values in (fit.utility, fit.half_life))
    repeats = np.arange(-(-samples // pairs))
    seen = np.minimum((repeats + 1.0) * pairs, samples)
    growth = np.log(seen / np.concatenate([[origin], seen[:-1]]))
    decayed = (share * utility) @ 0.5 ** (repeats * (share / half_life)[:, None])
    return float(decayed @ growth)


def best_buckets(fit: Fit, sizes: Sizes, samples: int, origin: float) -> list[int]:
    """The buckets to train on, ascending: greedily the one that raises `promise` most, until none does."""
    chosen: list[int] = []
    reached = -np.inf
    while len(chosen) < len(sizes):
        rest = [bucket for bucket in range(len(sizes)) if bucket not in chosen]
        promises = [promise(fit, sizes, [*chosen, bucket], samples, origin) for bucket in rest]
        best = int(np.argmax(promises))
        if promises[best] <= reached:
            break
        chosen.append(rest[best])
        reached = promises[best]
    return sorted(chosen)


def fitted(given: Runs, pool_size: int) -> Fit:
    """The utilities, half-lives and origin with which the law comes nearest to the runs (least squares of log errors).

    Raises ConfigError where a bucket has no two runs with different samples, or an error is not above the floor.
    """
    from scipy.optimize import least_squares

    buckets = max(run.bucket for run in given.runs) + 1
    for bucket in range(buckets):
        if len({run.samples for run in given.runs if run.bucket == bucket}) < 2:
            raise ConfigError(f"runs of bucket {bucket}: a fit needs two or more with different numbers of samples")
    low = min(run.error for run in given.runs)
    if low <= given.floor:
        raise ConfigError(f"runs: an error of {low} is not above the floor {given.floor}; lower the floor")
    found = np.log([run.error - given.floor for run in given.runs])

    def misfit(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        fit = _unpacked(logs)
        told = [
            promise(fit, np.full(buckets, run.pairs), [run.bucket], run.samples, fit.origin * pool_size)
            for run in given.runs
        ]
        return found + told

    start = np.log([0.1] * buckets + [5.0] * buckets + [0.01])
    return _unpacked(least_squares(misfit, start, bounds=(start - 10, start + 10)).x)


def _unpacked(logs: npt.NDArray[np.float64]) -> Fit:
    values = np.exp(logs)
    half = len(values) // 2
    return Fit(utility=values[:half].tolist(), half_life=values[half:-1].tolist(), origin=float(values[-1]))
