"""What the studies say of made-up scores whose answer is known."""

import numpy as np
import pytest

from harness.errors import ConfigError
from leaderboard import studies
from leaderboard.statistics import Scores

ROUNDS = 100


def _methods(
    truth: np.ndarray, *, seed_noise: float, sample_noise: float = 0.004, seeds: int = 2, rng: np.random.Generator
) -> list[Scores]:
    """Methods whose seeds scatter around the truth, evaluated on one drawn test set that all share."""
    shared = rng.normal(0, sample_noise, ROUNDS)
    found = []
    for value in truth:
        by_seed = value + rng.normal(0, seed_noise, seeds)
        replicates = by_seed[:, None] + shared + rng.normal(0, sample_noise / 3, (seeds, ROUNDS))
        found.append(Scores(seeds=by_seed[:, None], replicates=replicates[:, None].astype(np.float32)))
    return found


TRUTH = np.linspace(0.2, 0.34, 8)


def _agree(variant: np.ndarray, *, seed_noise: float = 0.001) -> studies.Agreement:
    rng = np.random.default_rng(0)
    base, other = (_methods(truth, seed_noise=seed_noise, rng=rng) for truth in (TRUTH, variant))
    found = studies.agreement(base, other, 0, rng)
    assert found is not None
    return found


def test_a_variant_that_shifts_all_scores_keeps_the_ranking():
    same = _agree(TRUTH + 0.05)
    assert [same.kendall.value, same.spearman.value] == pytest.approx([1, 1])
    assert same.kendall.low > 0.9
    assert same.swapped == same.reversed == []


def test_a_variant_that_turns_the_ranking_round_is_found_out():
    turned = _agree(TRUTH[::-1])
    assert [turned.kendall.value, turned.spearman.value] == pytest.approx([-1, -1])
    assert turned.kendall.high < -0.9
    assert len(turned.swapped) == 8 * 7 // 2
    assert (7, 0) in turned.reversed


def test_two_neighbours_swapped_are_named_and_only_called_significant_if_they_are():
    other = TRUTH.copy()
    other[[2, 3]] = other[[3, 2]]
    clear = _agree(other)
    assert clear.swapped == clear.reversed == [(3, 2)]
    assert clear.kendall.value == pytest.approx(1 - 2 * 1 / 28)
    noisy = _agree(other, seed_noise=0.02)
    assert noisy.reversed == []
    assert noisy.kendall.high - noisy.kendall.low > 0.2


def test_noise_alone_lowers_what_the_draws_say_of_a_perfect_agreement():
    rng = np.random.default_rng(3)
    base = _methods(np.full(8, 0.3), seed_noise=0.01, rng=rng)
    again = studies.agreement(base, base, 0, rng)
    assert again is not None
    assert again.kendall.value == pytest.approx(1)
    assert again.kendall.low < 0.5


def test_other_methods_widen_the_interval():
    other = TRUTH.copy()
    other[[2, 5]] = other[[5, 2]]
    found = _agree(other)
    assert found.kendall_methods.low < found.kendall.low
    assert found.kendall_methods.high >= found.kendall.high


def test_two_methods_have_no_order_to_compare():
    rng = np.random.default_rng(0)
    two = _methods(TRUTH[:2], seed_noise=0.001, rng=rng)
    assert studies.agreement(two, two, 0, rng) is None


def test_tasks_at_chance_and_tasks_with_signal_are_told_apart():
    rng = np.random.default_rng(5)
    tasks = {
        "chance": (0.1, _methods(np.full(8, 0.1), seed_noise=0.01, rng=rng)),
        "signal": (0.1, _methods(TRUTH, seed_noise=0.005, rng=rng)),
        "flat": (0.1, _methods(np.full(8, 0.5), seed_noise=0.01, rng=rng)),
        "retrieval": (None, _methods(TRUTH + 0.1, seed_noise=0.005, rng=rng)),
    }
    found = {one.key: one for one in studies.signals(tasks)}
    assert [one.tells for one in found.values()] == [True, True, False, False]
    assert {key: one.above_chance for key, one in found.items()} == {
        "chance": False, "signal": True, "flat": True, "retrieval": None,
    }  # fmt: skip
    assert found["signal"].best == 7
    assert found["signal"].icc.low > 0.8
    assert found["signal"].rest > 0.9
    assert found["flat"].icc.low < 0 < found["flat"].icc.high


def test_f_and_icc_are_those_of_the_textbook():
    # Three methods, two seeds: mean squares 8 between (2 degrees of freedom) and 0.5 within (3).
    scores = [Scores(seeds=np.array([[a], [a + 1.0]]), replicates=np.zeros((2, 1, 9), np.float32)) for a in (0, 2, 4)]
    (one,) = studies.signals({"task": (None, scores)})
    assert one.f == pytest.approx(8 / 0.5)
    assert one.icc.value == pytest.approx((8 - 0.5) / (8 + 0.5))
    from scipy import stats

    assert one.p == pytest.approx(stats.f_oneway([0, 1], [2, 3], [4, 5]).pvalue)
    assert one.mean.value == pytest.approx(2.5)


def test_the_false_discovery_rate_and_the_icc_interval_keep_their_promise():
    rng = np.random.default_rng(8)
    none = {str(i): (None, _methods(np.full(6, 0.3), seed_noise=0.01, rng=rng)) for i in range(200)}
    assert sum(one.tells for one in studies.signals(none)) <= 2  # one false table in twenty is promised
    spread = 0.02  # methods as noisy as twice a seed: ICC 0.8
    drawn = {str(i): (None, _methods(rng.normal(0.3, spread, 8), seed_noise=0.01, rng=rng)) for i in range(200)}
    held = sum(one.icc.low <= 0.8 <= one.icc.high for one in studies.signals(drawn))
    assert 180 <= held <= 199  # 95 % promised


def test_one_seed_each_says_nothing_of_signal():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="two seeds"):
        studies.signals({"task": (0.1, _methods(TRUTH, seed_noise=0.01, seeds=1, rng=rng))})
