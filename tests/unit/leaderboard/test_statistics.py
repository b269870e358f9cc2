"""Ranges of ranks: what they promise holds on data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from leaderboard import statistics
from leaderboard.statistics import ASSUMED_SPREAD, Scores, correlation, draw, leave_tasks_out, rank, seed_noise


def _board(
    rng: np.random.Generator, truth: np.ndarray, *, sample_noise: float, seed_noise: float, seeds: int
) -> list[Scores]:
    """Entries whose measured scores and replicates scatter around the truth as test samples and seeds make them."""
    shared = rng.normal(0, sample_noise, 400)  # the same resampled test sets for all
    measured_shift = rng.normal(0, sample_noise)
    entries = []
    for value in truth:
        by_seed = value + measured_shift + rng.normal(0, seed_noise, seeds)
        own = rng.normal(0, sample_noise / 3, (seeds, 400))
        replicates = by_seed[:, None] + shared + own
        entries.append(Scores(seeds=by_seed[:, None], replicates=replicates[:, None].astype(np.float32)))
    return entries


def _rank(entries: list[Scores]) -> statistics.Ranking:
    noise = seed_noise([e.seeds for e in entries])
    draws = np.stack([draw(e, noise, np.random.default_rng(i)) for i, e in enumerate(entries)])[:, 0]
    return rank(np.array([e.seeds.mean() for e in entries]), draws)


def test_clear_differences_give_single_ranks() -> None:
    rng = np.random.default_rng(0)
    ranking = _rank(_board(rng, np.array([0.1, 0.3, 0.2]), sample_noise=0.004, seed_noise=0.002, seeds=3))
    assert ranking.best.tolist() == ranking.worst.tolist() == [3, 1, 2]


def test_false_differences_are_rare_however_many_entries_there_are() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(
        _rank(_board(rng, np.full(12, 0.2), sample_noise=0.004, seed_noise=0.003, seeds=3)).better.any()
        for _ in range(60)
    )
    # 5 % promised; seeds of 12 entries estimate the spread, so allow for what 60 rounds can show.
    assert wrong <= 9


def test_noise_makes_the_ranges_wide_and_they_hold_the_truth() -> None:
    rng = np.random.default_rng(2)
    truth, place = np.linspace(0.2, 0.21, 8), 8 - np.arange(8)
    rankings = [_rank(_board(rng, truth, sample_noise=0.004, seed_noise=0.006, seeds=2)) for _ in range(40)]
    wrong = sum(((r.best > place) | (place > r.worst)).any() for r in rankings)
    assert wrong <= 6  # 5 % promised for the whole table, so 2 of 40 expected
    assert np.mean([r.worst - r.best for r in rankings]) > 3


def _plain(*seeds: float) -> Scores:
    """An entry whose scores do not depend on test samples."""
    replicates = np.broadcast_to(np.float32(seeds)[:, None, None], (len(seeds), 1, 2000))
    return Scores(seeds=np.array(seeds)[:, None], replicates=replicates)


def test_an_entry_with_one_seed_gets_the_spread_of_the_others() -> None:
    single, several = _plain(0.3), [_plain(0.29, 0.31, 0.30) for _ in range(20)]
    noise = seed_noise([e.seeds for e in (single, *several)])
    assert noise.freedom == 40
    assert noise.root.T @ noise.root == pytest.approx(0.01**2)
    wide, narrow = (draw(e, noise, np.random.default_rng(0)).std() for e in (single, several[0]))
    assert narrow > 0.005
    assert wide == pytest.approx(narrow * 3**0.5, rel=0.1)


def test_the_fewer_seeds_the_wider_as_student_has_it() -> None:
    for entries, freedom in ((1, 1), (3, 3), (60, 60)):
        noise = seed_noise([np.array([[0.29], [0.31]])] * entries)
        assert noise.freedom == freedom
        drawn = np.quantile(noise.draw(2, 40_000, np.random.default_rng(0))[0], 0.975)
        # The mean of two runs whose standard deviation is measured as .01 * sqrt(2).
        assert drawn == pytest.approx(0.01 * stats.t.ppf(0.975, freedom), rel=0.1)


def test_aggregates_scatter_together_as_they_were_measured() -> None:
    rng = np.random.default_rng(0)
    covariance = np.array([[4.0, 3.0], [3.0, 9.0]]) * 1e-4
    seeds = [rng.multivariate_normal([0.2, 0.3], covariance, size=2 + i % 3) for i in range(2000)]
    drawn = seed_noise(seeds).draw(1, 5000, rng)
    assert np.cov(drawn) == pytest.approx(covariance, rel=0.15)


def test_without_two_seeds_of_anything_a_spread_is_assumed() -> None:
    noise = seed_noise([np.array([[0.3, 0.2]]), np.array([[0.31, 0.25]])])
    assert noise.freedom == 0
    assert noise.draw(1, 2000, np.random.default_rng(0)).std(axis=1) == pytest.approx([ASSUMED_SPREAD] * 2, rel=0.05)
    near = _rank([_plain(0.300), _plain(0.305)])
    assert (near.best.tolist(), near.worst.tolist()) == ([1, 1], [2, 2])
    assert (near.high - near.low).min() > 2 * ASSUMED_SPREAD
    far = _rank([_plain(0.30), _plain(0.35)])
    assert (far.best.tolist(), far.worst.tolist()) == ([2, 1], [2, 1])


def test_two_entries_of_two_seeds_are_rarely_told_apart_wrongly() -> None:
    rng = np.random.default_rng(4)
    boards = [_board(rng, np.full(2, 0.2), sample_noise=0.001, seed_noise=0.006, seeds=2) for _ in range(300)]
    assert sum(_rank(board).better.any() for board in boards) <= 24  # 15 expected, with a standard deviation of 4


def test_equal_entries_are_tied_and_one_alone_is_first() -> None:
    same = Scores(seeds=np.array([[0.3]]), replicates=np.full((1, 1, 200), 0.3, dtype=np.float32))
    ranking = _rank([same, same])
    assert ranking.best.tolist() == [1, 1]
    assert ranking.worst.tolist() == [2, 2]
    assert (_rank([same]).best.tolist(), _rank([same]).worst.tolist()) == ([1], [1])


def test_correlation_and_leaving_tasks_out() -> None:
    found = correlation(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 40, 30]))
    assert found is not None
    assert (found.kendall, found.spearman) == (pytest.approx(2 / 3), pytest.approx(0.8))
    assert correlation(np.array([1.0, 2]), np.array([1.0, 2])) is None
    assert correlation(np.ones(4), np.arange(4.0)) is None
    scores = np.array([[0.9, 0.1, 0.1], [0.3, 0.3, 0.3], [0.2, 0.2, 0.2]])
    stability = leave_tasks_out(scores, rng=np.random.default_rng(0))
    assert stability["one"][0] < stability["one"][1] == 1.0  # the first task alone makes the first entry the best
    assert (stability["lowest"][0], stability["highest"][0]) == (3, 1)
