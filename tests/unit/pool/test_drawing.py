"""Rows drawn at random."""

import numpy as np
import pytest

from harness.pool.drawing import draw


@pytest.mark.parametrize("n", [0, 3, 8, 10])
def test_every_number_is_drawn_as_often(n: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw(10, n, rng) for _ in range(4000)]
    assert all(len(one) == n and np.all(np.diff(one) > 0) for one in drawn)
    times = np.bincount(np.concatenate(drawn), minlength=10)
    assert np.all(np.abs(times - 400 * n) <= 6 * np.sqrt(400 * n * (1 - n / 10)))
