"""Does a ranking hold under another recipe, and which tasks carry it? Pure NumPy and SciPy, no files.

*Ranking.* N methods are trained with a base recipe and with a variant of it; the two columns of scores are compared by
Kendall's tau-b and Spearman's rho. Their intervals come from `statistics.draw`: test samples drawn again (the same
draw for every method and for both columns, which are measured on the same samples) and noise of seeds, whose spread is
pooled over all methods (for each column its own). The draws add noise to scores that hold noise already, so they lie
rather below the true agreement than around it; the base compared with itself by the same draws shows how far
below, and is what a variant that changes nothing would give. A second interval draws the methods with replacement as
well: how much the answer rests on which methods were chosen.

*Tasks.* For each task the spread of the methods' means is held against the spread of seeds (one-way analysis of
variance): F, its p-value, and the intraclass correlation ICC(1), the part of a single run's variance that the method
makes, with its exact interval (Shrout and Fleiss, 1979). A task is above chance if the mean over all methods is, or
that of the best one (Bonferroni over methods), beyond the noise of samples and seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from scipy import stats

from harness.errors import ConfigError
from leaderboard import statistics
from leaderboard.statistics import CONFIDENCE, Floats, Scores

TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How two rankings of the same methods agree."""

    kendall: Span
    spearman: Span
    """Intervals over test samples and training seeds."""
    kendall_methods: Span
    spearman_methods: Span
    """Intervals over methods as well."""
    swapped: list[tuple[int, int]]
    """Pairs (i, j) where method i is above j in the base and below it in the variant."""
    reversed: list[tuple[int, int]]
    """Those of them whose difference is significant in both (`statistics.significantly_better`)."""


def agreement(
    base: Sequence[Scores], variant: Sequence[Scores], aggregate: int, rng: np.random.Generator
) -> Agreement | None:
    """Agreement of N methods' scores under two recipes, by the aggregate of that index.

    None where there is no order to compare: fewer than three methods, or a column without differences.
    """
    values, draws = zip(*(_column(scores, aggregate, rng) for scores in (base, variant)), strict=True)
    measured = statistics.correlation(*values)
    if measured is None:
        return None
    n, rounds = draws[0].shape
    everyone = np.arange(n)
    fixed = _redrawn(draws, [everyone] * rounds)
    chosen = _redrawn(draws, [rng.integers(n, size=n) for _ in range(rounds)])
    better = [statistics.significantly_better(v, d) for v, d in zip(values, draws, strict=True)]
    swapped = [
        (i, j) for i, j in permutations(range(n), 2) if values[0][i] > values[0][j] and values[1][i] < values[1][j]
    ]
    return Agreement(
        kendall=_span(measured.kendall, fixed[:, 0]),
        spearman=_span(measured.spearman, fixed[:, 1]),
        kendall_methods=_span(measured.kendall, chosen[:, 0]),
        spearman_methods=_span(measured.spearman, chosen[:, 1]),
        swapped=swapped,
        reversed=[(i, j) for i, j in swapped if better[0][i, j] and better[1][j, i]],
    )


def column(scores: Sequence[Scores], aggregate: int, rng: np.random.Generator) -> statistics.Ranking:
    """The ranking of N methods by the aggregate of that index."""
    return statistics.rank(*_column(scores, aggregate, rng))


def _column(scores: Sequence[Scores], aggregate: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Means over seeds (N,) and draws (N, B)."""
    noise = statistics.seed_noise([one.seeds for one in scores])
    draws = np.stack([statistics.draw(one, noise, rng)[aggregate] for one in scores])
    return np.array([one.seeds[:, aggregate].mean() for one in scores]), draws


def _redrawn(draws: Sequence[Floats], rows: Sequence[np.ndarray]) -> Floats:
    """Kendall and Spearman (R, 2) of draw b with its rows; R is fewer where a draw has no order."""
    found = [statistics.correlation(draws[0][at, b], draws[1][at, b]) for b, at in enumerate(rows)]
    return np.array([(one.kendall, one.spearman) for one in found if one is not None]).reshape(-1, 2)


def _span(value: float, draws: Floats) -> Span:
    low, high = np.quantile(draws, [TAIL, 1 - TAIL]) if len(draws) else (value, value)
    return Span(value=value, low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """What one task says about N methods."""

    key: str
    chance: float | None
    mean: Span
    """Over all methods."""
    best: int
    """Index of the method with the highest mean."""
    best_score: Span
    """Its mean over seeds, with an interval at a level of 5 % / N."""
    f: float
    """Variance between methods, over that between seeds; infinite where seeds do not differ and methods do."""
    p: float
    """Of F, if methods did not differ."""
    icc: Span
    rest: float | None
    """Spearman's rho between the methods' means here and their average over the other tasks."""
    tells: bool = False
    """The methods differ beyond seeds, at a false discovery rate of 5 % over all tasks."""

    @property
    def above_chance(self) -> bool | None:
        """None where the task has no chance score."""
        return None if self.chance is None else max(self.mean.low, self.best_score.low) > self.chance


def signals(tasks: Mapping[str, tuple[float | None, Sequence[Scores]]]) -> list[Signal]:
    """What each task says, by key: its chance score, and of the same N methods seeds (S, 1) and replicates (S, 1, B).

    The strongest first (by ICC). Raises ConfigError with fewer than two methods or without two seeds of one.
    """
    means = {key: np.array([one.seeds.mean() for one in methods]) for key, (_, methods) in tasks.items()}
    total = np.sum(list(means.values()), axis=0)
    found = []
    for key, (chance, methods) in tasks.items():
        rest = statistics.correlation(means[key], total - means[key])
        found.append(_signal(key, chance, methods, None if rest is None else rest.spearman))
    rates = stats.false_discovery_control([one.p for one in found]) if found else []
    judged = [replace(one, tells=bool(rate < 1 - CONFIDENCE)) for one, rate in zip(found, rates, strict=True)]
    return sorted(judged, key=lambda one: -one.icc.value)


def _signal(key: str, chance: float | None, methods: Sequence[Scores], rest: float | None) -> Signal:
    counts = np.array([len(one.seeds) for one in methods])
    n, total = len(methods), int(counts.sum())
    between, within = n - 1, total - n
    if between < 1 or within < 1:
        raise ConfigError(f"{n} methods with {total} runs: what a task tells needs two methods, and two seeds of one")
    means = np.array([one.seeds.mean() for one in methods])
    grand = float(np.average(means, weights=counts))
    mean_between = float(counts @ (means - grand) ** 2) / between
    mean_within = float(sum(((one.seeds - one.seeds.mean()) ** 2).sum() for one in methods)) / within
    f = mean_between / mean_within if mean_within > 0 else float("inf") if mean_between > 0 else 0.0
    each = (total - float((counts**2).sum()) / total) / between
    redrawn = np.stack([one.replicates.mean(axis=(0, 1), dtype=np.float64) for one in methods])
    best = int(means.argmax())

    def noisy(value: float, draws: Floats, runs: int, level: float) -> Span:
        width = float(stats.t.isf(level / 2, within) * np.sqrt(draws.var(ddof=1) + mean_within / runs))
        return Span(value=value, low=value - width, high=value + width)

    return Signal(
        key=key,
        chance=chance,
        mean=noisy(float(means.mean()), redrawn.mean(axis=0), total, 2 * TAIL),
        best=best,
        best_score=noisy(float(means[best]), redrawn[best], int(counts[best]), 2 * TAIL / n),
        f=f,
        p=float(stats.f.sf(f, between, within)),
        icc=Span(
            value=_icc(f, each),
            low=_icc(f / float(stats.f.isf(TAIL, between, within)), each),
            high=_icc(f * float(stats.f.isf(TAIL, within, between)), each),
        ),
        rest=rest,
    )


def _icc(f: float, each: float) -> float:
    """ICC(1) of F with so many seeds a method."""
    return 1.0 if np.isinf(f) else (f - 1) / (f + each - 1)
