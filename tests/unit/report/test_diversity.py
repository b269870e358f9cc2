"""Diversity of embeddings, against values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report import diversity


@pytest.mark.parametrize("q", diversity.ORDERS)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_vendi_of_orthogonal_rows_is_their_number_and_of_equal_rows_one(n: int, q: float) -> None:
    orthogonal = 5.0 * np.eye(8)[:n]
    assert diversity.vendi(diversity.spectrum(orthogonal), q) == pytest.approx(n)
    assert diversity.vendi(diversity.spectrum(np.tile([[1.0, 2.0, -1.0]], (n, 1))), q) == pytest.approx(1)


def test_vendi_of_two_modes_by_hand() -> None:
    eigenvalues = diversity.spectrum(np.eye(2)[[0, 0, 0, 1]])
    assert sorted(eigenvalues) == pytest.approx([0.25, 0.75])
    by_hand = {
        0.5: (math.sqrt(0.75) + math.sqrt(0.25)) ** 2,
        1.0: math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        2.0: 1 / (0.75**2 + 0.25**2),
        math.inf: 4 / 3,
    }
    assert {q: diversity.vendi(eigenvalues, q) for q in diversity.ORDERS} == pytest.approx(by_hand)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_vendi_properties(n: int, width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, width))
    scores = [diversity.vendi(diversity.spectrum(rows), q) for q in diversity.ORDERS]
    assert np.all(np.diff(scores) < 1e-9)  # Rényi entropies fall with their order
    assert min(scores) >= 1 - 1e-9
    assert max(scores) <= min(n, width) + 1e-9
    twice = [diversity.vendi(diversity.spectrum(np.tile(rows, (2, 1))), q) for q in diversity.ORDERS]
    assert twice == pytest.approx(scores)  # copies add nothing
    scaled = diversity.spectrum(np.vstack([rows * 3, np.zeros((1, width))]))
    assert diversity.vendi(scaled) == pytest.approx(scores[1])  # lengths do not count, rows of zeros are no pictures


def test_schur_complement_splits_what_captions_explain() -> None:
    corners = np.array([[a, b] for a in (1.0, -1.0) for b in (1.0, -1.0)])
    zero = np.zeros((4, 2))
    texts, images = np.hstack([corners[:, :1], zero]), np.hstack([zero, corners[:, 1:]])
    apart = diversity.schur(images, texts)
    assert apart == pytest.approx({"explained": 0, "explained_by_text": 1, "unexplained_by_text": 1})
    mixed = images + texts  # one direction follows the captions, one as large does not
    halves = diversity.schur(mixed, texts)
    assert halves == pytest.approx({"explained": 0.5, "explained_by_text": 1, "unexplained_by_text": 1})
    about = images + np.array([10, 0, 10])  # a direction that all pictures share, which a constant caption would give
    unrelated = diversity.schur(about, np.hstack([np.ones((4, 1)), corners[:, :1] * corners[:, 1:]]))
    assert unrelated["explained"] == pytest.approx(0, abs=1e-9)
    rows = np.random.default_rng(0).normal(size=(40, 3))
    told = diversity.schur(rows, rows)
    assert told["explained"] == pytest.approx(1)
    assert told["explained_by_text"] == pytest.approx(diversity.vendi(diversity.spectrum(rows)))
    assert told["unexplained_by_text"] == pytest.approx(1)
