"""Mixtures of clusters, and what runs on some of them promise of others."""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness import ConfigError
from harness.records import StrictModel

Floats = npt.NDArray[np.float64]

PENALTIES = np.logspace(-6, 3, 28)
"""That ridge regression chooses from, in units of the mean squared length of a mixture from the mean."""

APART = 0.01
"""Shares of one mixture may differ so far: near ties between clusters fall otherwise on another processor."""


class Run(StrictModel):
    """A model trained on one candidate."""

    candidate: Annotated[int, Field(ge=0)]
    """Its number among those of the round."""
    score: float
    """More is better."""
    mixture: list[float] | None = None
    """Its shares of the clusters, if they are to be compared with the candidate's."""


class Runs(StrictModel):
    """Small runs, round by round; each round's candidates follow from the runs of the rounds before."""

    rounds: Annotated[list[Annotated[list[Run], Field(min_length=3)]], Field(min_length=1)]


def fitted(mixtures: Floats, scores: Floats) -> Floats:
    """The score (K,) that each part adds: ridge regression of `scores` (R,) on `mixtures` (R, K), R >= 3.

    The penalty is the one of PENALTIES with the least squared error of each run predicted from all others (closed form:
    Allen 1974, PRESS). The parts of a mixture sum to 1, so a constant may be added to the result.
    """
    rows, centred = mixtures - mixtures.mean(axis=0), scores - scores.mean()
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    along = left.T @ centred
    best, chosen = np.inf, np.zeros(mixtures.shape[1])
    for penalty in PENALTIES * float((values**2).mean()):
        shrunk = values**2 / (values**2 + penalty) if penalty else np.zeros(len(values))
        # What a run's own score adds to its prediction; the mean's part is 1 / R.
        own = np.minimum((left**2) @ shrunk + 1 / len(scores), 1 - 1e-9)
        press = float((((centred - left @ (shrunk * along)) / (1 - own)) ** 2).sum())
        if press < best:
            best = press
            chosen = right.T @ np.divide(shrunk * along, values, out=np.zeros(len(values)), where=values > 0)
    return chosen


def next_round(draw: Callable[[], Floats], rounds: Sequence[Sequence[Run]]) -> Floats:
    """The candidates (M, K) of the round behind `rounds`, those first that all runs so far promise most of.

    `draw()` gives the mixtures (M, K) of each round in turn; those of the first stay in their order. ConfigError where
    a run names a candidate that its round does not have, or tells of another mixture.
    """
    found = draw()
    known, scores = np.empty((0, found.shape[1])), np.empty(0)
    for number, runs in enumerate(rounds, 1):
        chosen = [run.candidate for run in runs]
        if max(chosen) >= len(found):
            raise ConfigError(f"runs, round {number}: candidate {max(chosen)} is none of the {len(found)} there are")
        for run in runs:
            if run.mixture is not None and not _same(run.mixture, found[run.candidate]):
                raise ConfigError(
                    f"runs, round {number}: candidate {run.candidate} is another mixture here than when it ran; pool, "
                    "method.seed and parameters must be those of the runs"
                )
        known = np.concatenate([known, found[chosen]])
        scores = np.append(scores, [run.score for run in runs])
        found = draw()
        found = found[np.argsort(-(found @ fitted(known, scores)), kind="stable")]
    return found


def _same(told: Sequence[float], mixture: Floats) -> bool:
    return len(told) == len(mixture) and bool(np.abs(np.array(told) - mixture).max() < APART)
