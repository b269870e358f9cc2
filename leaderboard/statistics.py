"""How sure a ranking is. Pure NumPy and SciPy, no files.

Two things make a score uncertain: which test samples the tasks happen to hold, and the training seed.

*Samples.* Every entry brings B replicates of its aggregates: the tasks' samples drawn again with replacement, the
same draw b for every entry (harness.bootstrap), so that differences between entries are paired.
*Seeds.* A few seeds an entry say little about their spread, but all entries of a scale together say more: the
deviations of seeds from their entry's mean are pooled, which assumes that seeds scatter alike whatever was selected,
and each replicate of an entry with S seeds adds the mean of S normal deviations of the pooled covariance (drawn from
the few that were measured, their tails would be too light). An entry with one seed gets the others' spread. The
pooled covariance has F = runs - entries degrees of freedom and is itself uncertain; so replicate b multiplies what it
drew by sqrt(F / chi2_b), the same for every entry, with chi2_b of F degrees of freedom. Without test samples that is
Student's t of a difference, and of the largest of several, Tukey's studentised range (1949). Where no entry has two
seeds, a spread known from elsewhere stands in.

Two entries differ significantly if |difference| / standard error is above the 95 % point of the largest such
statistic over all pairs of the table under resampling (Westfall and Young, 1993, single-step max-T). The chance of
one or more false differences in a column of a table is then 5 %, however many entries it has; benchmarks/bench_ranks.py
measures it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
ASSUMED_SPREAD = 0.0083
"""Standard deviation of an aggregate between training seeds where no entry tells: that of the average at scale tiny,
pooled over the 45 runs of 15 entries (benchmarks/bench_ranks.py); the benchmark's authors state up to 0.006."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One entry's aggregates: `seeds` (S, A) as measured, `replicates` (S, A, B) with resampled test samples."""

    seeds: Floats
    replicates: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """One column of a table of N entries."""

    values: Floats
    """(N,) means over seeds."""
    low: Floats
    high: Floats
    """(N,) 95 % interval."""
    best: npt.NDArray[np.int64]
    worst: npt.NDArray[np.int64]
    """(N,) the range of ranks: 1 + entries significantly better, and N - entries significantly worse."""
    better: npt.NDArray[np.bool_]
    """(N, N) True where entry i is significantly better than entry j."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedNoise:
    """How the aggregates of one uid file scatter between training seeds."""

    root: Floats
    """(K, A), K at most A: root.T @ root is the pooled covariance of one run's aggregates."""
    freedom: int
    """Degrees of freedom F of that covariance; 0: it is assumed, not measured."""

    def draw(self, seeds: int, draws: int, rng: np.random.Generator) -> Floats:
        """Noise (A, draws) of the mean of so many seeds."""
        noise = self.root.T @ rng.standard_normal((len(self.root), draws)) / np.sqrt(seeds)
        # Centred before it is widened: with one degree of freedom a mean of what comes after means nothing.
        return np.asarray((noise - noise.mean(axis=1, keepdims=True)) * self._widening(draws))

    def _widening(self, draws: int) -> Floats:
        """(draws,) of sqrt(F / chi2): what the true spread may be, in units of the one measured."""
        if not self.freedom:
            return np.ones(draws)
        # Evenly spaced quantiles in an order that is the same for every entry: they share one true spread.
        squares = stats.chi2.ppf((np.arange(draws) + 0.5) / draws, self.freedom)
        return np.asarray(np.sqrt(self.freedom / np.random.default_rng(0).permutation(squares)))


def seed_noise(seeds: Sequence[Floats]) -> SeedNoise:
    """The noise of seeds pooled over entries, from the aggregates (S, A) of each entry's runs."""
    several = [found - found.mean(axis=0) for found in seeds if len(found) > 1]
    if not several:
        return SeedNoise(root=ASSUMED_SPREAD * np.eye(seeds[0].shape[1] if len(seeds) else 0), freedom=0)
    freedom = sum(len(found) - 1 for found in several)
    _, sizes, directions = np.linalg.svd(np.concatenate(several) / np.sqrt(freedom), full_matrices=False)
    return SeedNoise(root=sizes[:, None] * directions, freedom=freedom)


def draw(entry: Scores, noise: SeedNoise, rng: np.random.Generator) -> Floats:
    """B draws (A, B) of an entry's aggregates over samples and seeds, centred on what was measured.

    Centring takes out the bias of resampled minima (worst groups), which would shift every entry alike.
    """
    measured = entry.seeds.mean(axis=0)
    draws = entry.replicates.mean(axis=0, dtype=np.float64)
    draws += (measured - draws.mean(axis=1))[:, None]
    return np.asarray(draws + noise.draw(len(entry.seeds), draws.shape[1], rng), dtype=np.float64)


def rank(values: Floats, draws: Floats) -> Ranking:
    """Ranges of ranks of N entries from their values (N,) and draws (N, B) around them; higher is better."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=1) if len(values) else (values, values)
    better = significantly_better(values, draws)
    return Ranking(
        values=values,
        low=low,
        high=high,
        best=1 + better.sum(axis=0),
        worst=len(values) - better.sum(axis=1),
        better=better,
    )


def significantly_better(values: Floats, draws: Floats) -> npt.NDArray[np.bool_]:
    """(N, N), True where entry i is better than entry j beyond the noise of the whole table."""
    difference = values[:, None] - values[None, :]
    if len(values) < 2:
        return np.zeros_like(difference, dtype=bool)
    centred = (draws - values[:, None]).astype(np.float32)
    covariance = centred @ centred.T / (centred.shape[1] - 1)
    spread = np.diag(covariance)
    # Entries of equal predictions have no spread; the floor keeps their statistic finite and their difference 0.
    error = np.sqrt(np.maximum(spread[:, None] + spread[None, :] - 2 * covariance, 1e-16))
    largest = np.zeros(centred.shape[1], dtype=np.float32)
    for i in range(len(values) - 1):
        statistic = np.abs(centred[i + 1 :] - centred[i]) / error[i, i + 1 :, None]
        np.maximum(largest, statistic.max(axis=0), out=largest)
    critical = np.quantile(largest, CONFIDENCE)
    return np.asarray(difference / error > critical)


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Agreement of two rankings of the same entries."""

    kendall: float
    spearman: float
    entries: int


def correlation(first: Floats, second: Floats) -> Correlation | None:
    """Rank correlation of two columns (N,); None with fewer than three entries or a constant column."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return Correlation(
        kendall=float(stats.kendalltau(first, second).statistic),
        spearman=float(stats.spearmanr(first, second).statistic),
        entries=len(first),
    )


def leave_tasks_out(scores: Floats, *, rng: np.random.Generator, rounds: int = 200) -> dict[str, Floats]:
    """How the order of N entries depends on the choice of T tasks, from their scores (N, T).

    `one`: (T,) Kendall's tau between the ranking by all tasks and that without task t.
    `half`: (rounds,) the same for random halves of the tasks.
    `lowest`, `highest`: (N,) the ranks an entry takes when any one task is left out.
    """
    full = scores.mean(axis=1)
    without = (scores.sum(axis=1, keepdims=True) - scores) / (scores.shape[1] - 1)
    place = np.stack([stats.rankdata(-column, method="min") for column in without.T], axis=1)
    half = [rng.permutation(scores.shape[1])[: scores.shape[1] // 2] for _ in range(rounds)]
    return {
        "one": np.array([stats.kendalltau(full, column).statistic for column in without.T]),
        "half": np.array([stats.kendalltau(full, scores[:, tasks].mean(axis=1)).statistic for tasks in half]),
        "lowest": place.max(axis=1),
        "highest": place.min(axis=1),
    }
