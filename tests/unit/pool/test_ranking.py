import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.pool.ranking import nth_largest


def check(parts: list[np.ndarray], n: int) -> None:
    every = np.concatenate(parts)
    wanted = -np.sort(-every)[n]
    found = nth_largest(lambda fn: [fn(part) for part in parts], n)
    assert found == wanted or (np.isnan(found) and np.isnan(wanted))


FLOATS = {
    16: st.one_of(st.floats(width=16), st.sampled_from([0.0, -0.0, float("nan"), float("inf"), -float("inf")])),
    32: st.floats(width=32),
    64: st.floats(width=64),
}


@pytest.mark.parametrize("width", [16, 32, 64])
@settings(max_examples=60)
@given(data=st.data())
def test_it_is_the_element_of_the_sorted_values(width: int, data: st.DataObject) -> None:
    dtype = {16: np.float32, 32: np.float32, 64: np.float64}[width]
    draw = hnp.arrays(dtype, st.integers(1, 12), elements=FLOATS[width])
    parts = data.draw(st.lists(draw, min_size=1, max_size=4))
    check(parts, data.draw(st.integers(0, sum(map(len, parts)) - 1)))


@settings(max_examples=60)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.data())
def test_whole_numbers_and_ties(values: list[int], data: st.DataObject) -> None:
    check([np.array(values, dtype=np.int64).astype(np.float64)], data.draw(st.integers(0, len(values) - 1)))


def test_close_values_of_other_files_are_told_apart() -> None:
    one = np.float32(0.25)
    above, below = np.nextafter(one, np.float32(1)), np.nextafter(one, np.float32(0))
    parts = [np.array([one, above], np.float32), np.array([below], np.float32)]
    for n in range(3):
        check(parts, n)
