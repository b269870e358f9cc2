"""Clusters of pictures and the treemap of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.clusters import Cluster, clustered
from harness.report.page import tiles
from harness.report.treemap import squarified


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=30), width=st.integers(50, 900))
def test_treemap_fills_the_rectangle(sizes: list[int], width: int) -> None:
    sizes.sort(reverse=True)
    places = squarified(sizes, width, 300)
    areas = [place.width * place.height for place in places]
    assert areas == pytest.approx([size / sum(sizes) * width * 300 for size in sizes])
    for number, a in enumerate(places):
        assert a.x > -1e-6 and a.y > -1e-6 and a.x + a.width < width + 1e-6 and a.y + a.height < 300 + 1e-6
        for b in places[:number]:
            across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            along = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert min(across, along) < 1e-6


def test_planted_clusters() -> None:
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1], [80, 40])
    images = np.vstack([np.zeros((1, 8)), np.eye(8)[of] + 0.05 * rng.normal(size=(120, 8))])
    captions = ["not embedded", *(f"a photo of one {('cat', 'dog')[label]}" for label in of)]
    kept = np.append(True, (of == 1) | (np.arange(120) % 4 == 0))
    found = clustered(images, captions, kept, clusters=2, seed=0)
    assert [(c.share, c.kept, c.words) for c in found] == [
        (pytest.approx(2 / 3), 0.25, ("cat",)),
        (pytest.approx(1 / 3), 1.0, ("dog",)),
    ]
    assert clustered(images[:20], captions[:20], kept[:20], clusters=3, seed=0) == []
    images[0, 3] = np.inf  # no embedding either
    assert clustered(images, captions, kept, clusters=2, seed=0) == found


def test_colours_fade_where_chance_would_do() -> None:
    cluster = Cluster(share=0.5, kept=0.003, words=("dog",))
    (sure,), (fainter,) = (tiles([cluster], 0.001, sampled) for sampled in (100_000, 2_000))
    assert sure.tone == fainter.tone == "accent" and fainter.strength == round(sure.strength / 10) > 0
    assert sure.lines == ["dog", "0.3 %"]
