"""Counts of pairs by property."""

import numpy as np
import pytest
from scipy import stats

from harness.report import bins
from harness.report.bins import Axis


def test_kept_share_by_planted_scores() -> None:
    axis = Axis(key="score", title="score", edges=(0.0, 0.5, 0.8))
    values = np.array([-1.0, 0.1, 0.49, 0.5, 0.79, 0.8, 7.0, np.nan])
    kept = np.array([0, 0, 1, 1, 1, 1, 1, 0])
    weights = np.stack([np.ones(8, dtype=np.int64), kept, 2 * kept])
    prop = bins.of_axis(axis, ("pool", "kept", "subset"), axis.count(values, weights))
    assert prop.counts == {"pool": (3, 2, 2, 1), "kept": (1, 2, 2, 0), "subset": (2, 4, 4, 0)}
    assert prop.kept_share == [pytest.approx(1 / 3), 1.0, 1.0, 0.0]
    assert prop.shares("subset") == pytest.approx([0.2, 0.4, 0.4, 0])
    assert prop.distance("pool") == 0
    assert prop.distance("subset") == pytest.approx((0.175 + 0.15 + 0.15 + 0.125) / 2)


def test_rare_names_stand_together() -> None:
    counts = {"en": np.array([6, 3]), "de": np.array([2, 0]), "fr": np.array([1, 1]), "": np.array([1, 0])}
    prop = bins.of_names("language", "Language", ("pool", "kept"), counts, most=2)
    assert prop.labels == ("en", "de", "others")
    assert prop.counts == {"pool": (6, 2, 2, 0), "kept": (3, 0, 1, 0)}


def test_bins_of_scores() -> None:
    assert bins.score_edges(np.array([np.nan, np.inf])) is None
    assert bins.score_edges(np.array([0.5, 0.5])) == (0.5,)
    edges = bins.score_edges(np.linspace(0, 1, 1001))
    assert edges is not None
    assert len(edges) == bins.SCORE_BINS
    assert edges[0] == pytest.approx(0.001)
    assert np.diff(edges) == pytest.approx((0.998) / bins.SCORE_BINS)


def test_repeats_and_rank_correlation() -> None:
    assert bins.repeats(np.array([5, 5, 5, 7, 9, 9], np.uint64)) == 3
    a, b = np.array([3.0, 1, 1, 8, 5]), np.array([2.0, 0, 4, 9, 1])
    assert bins.spearman(a, b) == pytest.approx(float(stats.spearmanr(a, b).statistic))
    assert bins.spearman(a, np.ones(5)) is None
    assert bins.spearman(a[:2], b[:2]) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0.001, 0.002), (1e-7, 2e-7), (-30, 40), (0.2, 22_000), (1e6, 1e9), (0.1, 0.5)]
)
def test_borders_can_be_told_apart(low: float, high: float) -> None:
    edges = np.linspace(low, high, bins.SCORE_BINS, endpoint=False).tolist()
    labels = bins.numbers(edges)
    assert len(set(labels)) == len(edges) and max(map(len, labels)) <= 11
    assert [float(label.replace(",", "")) for label in labels] == pytest.approx(edges, rel=0.05, abs=(high - low) / 60)


def test_borders_are_as_short_as_they_can_be() -> None:
    assert bins.numbers((0, 0.33, 1, 1500)) == ("0", "0.33", "1", "1,500")
    assert bins.numbers((1_234_567.0, 2e6)) == ("1.23e6", "2.00e6")
