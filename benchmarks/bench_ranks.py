"""How often do ranks mislead? `python benchmarks/bench_ranks.py [boards=1000] [entries=DIR]` prints tables.

Boards are made up whose truth is known and whose noise is that of the entries in DIR (default: the shipped board of
scale tiny), and ranked as a real board is. A run's average is the entry's truth and four kinds of normal noise, each of
the measured size: the test samples that all runs share; how hard the samples happen to be for one method, and for one
run; and the seed of training. The replicates of an entry hold the first three again, as resampling samples does.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from harness.eval.suite import AGGREGATES
from leaderboard import statistics
from leaderboard.entries import ENTRIES, Entry, find
from leaderboard.statistics import Floats, Ranking, Scores

AVERAGE = list(AGGREGATES).index("average")
REPLICATES = 1000
MIDDLE = 0.3
DIFFERENCES = (0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations of what makes up a run's average."""

    shared: float
    """Test samples, alike for all runs."""
    method: float
    """Test samples, for one method."""
    run: float
    """Test samples, for one run of it."""
    seed: float
    """Training seeds, beyond what test samples make of them."""

    def board(self, truth: Floats, seeds: Sequence[int], rng: np.random.Generator, uneven: float = 1) -> list[Scores]:
        """Entries of the true scores (N,) with so many seeds each; every other one's seeds scatter `uneven` times."""
        shared = self.shared * rng.standard_normal(REPLICATES + 1)
        entries = []
        for i, (value, count) in enumerate(zip(truth, seeds, strict=True)):
            samples = shared + self.method * rng.standard_normal(REPLICATES + 1)
            samples = samples + self.run * rng.standard_normal((count, REPLICATES + 1))
            spread = self.seed * (uneven if i % 2 else 1)
            measured = value + samples[:, 0] + spread * rng.standard_normal(count)
            replicates = measured[:, None] + samples[:, 1:]
            entries.append(Scores(seeds=measured[:, None], replicates=replicates[:, None].astype(np.float32)))
        return entries


def measure(entries: Sequence[Scores]) -> Noise:
    """The noise of real entries, by analysis of variance of the average over replicates and over seeds."""
    centred = [e.replicates - e.replicates.mean(axis=2, keepdims=True) for e in entries]
    run = np.mean([part[:, AVERAGE].var(axis=0, ddof=1).mean() for part in centred if len(part) > 1])
    means = np.stack([part[:, AVERAGE].mean(axis=0) for part in centred])
    method = means.var(axis=0, ddof=1).mean() - run * np.mean([1 / len(part) for part in centred])
    seed = _pooled([e.seeds[:, AVERAGE] for e in entries])
    return Noise(
        shared=float(means.mean(axis=0).std()), run=float(run**0.5),
        method=float(max(method, 0) ** 0.5), seed=float(max(seed - run, 0) ** 0.5),
    )  # fmt: skip


def _pooled(seeds: Sequence[Floats]) -> float:
    return float(sum(((s - s.mean()) ** 2).sum() for s in seeds) / sum(len(s) - 1 for s in seeds))


def shipped(root: Path) -> list[Scores]:
    """What the ranking reads of the entries below `root`."""
    found = []
    for entry in map(Entry.load, find(root)):
        seeds = np.array([entry.payload.aggregates[name].seeds for name in AGGREGATES], dtype=np.float64).T
        found.append(Scores(seeds=seeds, replicates=np.load(entry.file("bootstrap.npy"))))
    return found


def ranked(entries: Sequence[Scores], rng: np.random.Generator) -> Ranking:
    """The ranking as a board makes it."""
    noise = statistics.seed_noise([entry.seeds for entry in entries])
    draws = np.stack([statistics.draw(entry, noise, rng)[0] for entry in entries])
    return statistics.rank(np.array([entry.seeds.mean() for entry in entries]), draws)


def false_rates(
    noise: Noise, truth: Floats, seeds: Sequence[int], *, boards: int, uneven: float = 1
) -> tuple[float, float, float, float]:
    """Shares of wrong pairs, of boards with one, of ranges without all true ranks, of intervals without the truth."""
    rng = np.random.default_rng(0)
    lower, n = truth[:, None] <= truth[None, :], len(truth)
    first = 1 + (truth[None, :] > truth[:, None]).sum(axis=1)
    last = n - (truth[None, :] < truth[:, None]).sum(axis=1)
    pairs, tables, ranges, intervals = [], [], [], []
    for _ in range(boards):
        found = ranked(noise.board(truth, seeds, rng, uneven), rng)
        wrong = found.better & lower
        pairs.append(wrong.sum() / (n * (n - 1) / 2))
        tables.append(wrong.any())
        ranges.append(((found.best > first) | (found.worst < last)).mean())
        intervals.append(((found.low > truth) | (found.high < truth)).mean())
    return tuple(float(np.mean(values)) for values in (pairs, tables, ranges, intervals))  # type: ignore[return-value]


def power(noise: Noise, difference: float, entries: int, seeds: int, *, boards: int) -> float:
    """Share of the pairs found, between a half of the entries that is better by `difference` and the other."""
    rng, half = np.random.default_rng(1), entries // 2
    truth = np.full(entries, MIDDLE)
    truth[:half] += difference
    found = [ranked(noise.board(truth, [seeds] * entries, rng), rng).better[:half, half:].mean() for _ in range(boards)]
    return float(np.mean(found))


def main(boards: int, root: Path) -> None:
    """Print noise, rates of errors and power."""
    entries = shipped(root)
    noise, averages = measure(entries), [entry.seeds[:, AVERAGE] for entry in entries]
    print(f"noise of {len(entries)} entries: {noise}")
    spread, alike = _pooled(averages) ** 0.5, stats.bartlett(*(one for one in averages if len(one) > 1)).pvalue
    print(f"standard deviation between seeds: {spread:.4f}; Bartlett's test that it is the same for all: p {alike:.2f}")
    print(f"\n{boards} boards a line; wrong: pairs, boards with a wrong pair, ranges, intervals")
    equal: list[tuple[str, Sequence[int]]] = [
        (f"{n} entries, {s} seeds", [s] * n) for n in (2, 3, 5, 15) for s in (1, 2, 3, 5)
    ]
    equal += [("3 entries, 2 2 1 seeds", [2, 2, 1]), ("15 entries, 3 seeds, one of 1", [3] * 14 + [1])]
    rest = {"method": 0.0, "run": 0.0}
    means = np.array([one.mean() for one in averages])
    cases = [(f"equal: {name}", noise, np.full(len(s), MIDDLE), s, 1.0) for name, s in equal]
    cases += [(f"seeds alone: {n} entries, {s} seeds", replace(noise, **rest), np.full(n, MIDDLE), [s] * n, 1.0)
              for n in (2, 3, 15) for s in (2, 3)]  # fmt: skip
    cases += [(f"seeds twice as wide in every other: 15 entries, {s} seeds", noise, np.full(15, MIDDLE), [s] * 15, 2.0)
              for s in (2, 3)]  # fmt: skip
    cases += [(f"true scores as on the board: {len(means)} entries, {s} seeds", noise, means, [s] * len(means), 1.0)
              for s in (1, 2, 3, 5)]  # fmt: skip
    for name, kind, truth, seeds, uneven in cases:
        rates = false_rates(kind, truth, seeds, boards=boards, uneven=uneven)
        print(f"{name:60}" + " ".join(f"{100 * rate:6.1f} %" for rate in rates), flush=True)
    print(f"\npairs found at a true difference of {', '.join(map(str, DIFFERENCES))}")
    for n, s in ((2, 2), (2, 3), (4, 2), (4, 3), (15, 1), (15, 2), (15, 3), (15, 5)):
        shares = [power(noise, difference, n, s, boards=max(boards // 4, 1)) for difference in DIFFERENCES]
        print(f"{n:3} entries, {s} seeds   " + " ".join(f"{100 * share:6.1f} %" for share in shares), flush=True)


if __name__ == "__main__":
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(int(settings.get("boards", 1000)), Path(settings.get("entries", ENTRIES / "tiny")))
