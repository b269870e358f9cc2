"""Weighted sums of columns and methods."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metadata_pool import write_metadata
from planted_pool import ROWS, WIDTH, chosen, context, plant, write_pool, write_targets

from baselines import _scores, dp4tl, fusion, perplexity
from harness import Pool, SelectionContext
from harness.config import MethodConfig
from harness.errors import ConfigError, MethodError
from harness.selection import plugins


@pytest.mark.parametrize("by", ["rank", "deviation", "value"])
def test_fusion_of_one_column_is_clip_score(tmp_path: Path, by: str) -> None:
    folder = write_metadata(tmp_path)
    of = [{"column": "clip_b32_similarity_score"}]
    for fraction in (0.3, 1.0):
        found = chosen(folder, tmp_path / f"f{fraction}", "fusion", of=of, by=by, fraction=fraction)
        assert (
            found.digest
            == chosen(folder, tmp_path / f"c{fraction}", "clip_score", arch="b32", fraction=fraction).digest
        )


def test_fusion_is_the_weighted_sum(tmp_path: Path, rng: np.random.Generator, ctx: SelectionContext) -> None:
    folder = write_metadata(tmp_path / "pool")
    pool = Pool.open(folder)
    columns = [_scores.column(pool, f"clip_{arch}_similarity_score").astype(float) for arch in ("l14", "b32")]
    of = plugins.bind(
        plugins.resolve(MethodConfig(name="fusion")),
        {
            "of": [
                {"column": "clip_l14_similarity_score", "weight": 2},
                {"column": "clip_b32_similarity_score", "weight": -0.5},
                {"name": "clip_score", "fraction": 0.2, "weight": 3},
            ]
        },
    )["of"]
    found = fusion.scores(pool, ctx=ctx, of=of, by="value")
    best = columns[0] >= pool.threshold("clip_l14_similarity_score", keep=0.2)
    assert np.isnan(found).any()
    np.testing.assert_allclose(found, 2 * columns[0] - 0.5 * columns[1] + 3 * best, rtol=1e-6)


def test_measures_are_alike_whatever_the_scale(rng: np.random.Generator) -> None:
    scores = rng.normal(size=500).astype(np.float32)
    scores[7] = np.nan
    for by in ("rank", "deviation"):
        first, second = fusion.alike(scores, by), fusion.alike(1000 * scores + 5, by)
        np.testing.assert_allclose(first, second, atol=1e-3)
        assert np.isnan(first[7]) and np.isnan(first).sum() == 1
    ranks = fusion.alike(np.array([3, 1, 1, 2], np.float32), "rank")
    assert ranks.tolist() == [1.0, 0.375, 0.375, 0.75]
    assert fusion.alike(np.array([2, 2], np.float32), "deviation").tolist() == [0.0, 0.0]


def test_fusion_takes_the_scores_of_methods_that_have_them(tmp_path: Path, rng: np.random.Generator) -> None:
    img, txt = (rng.normal(size=(ROWS, WIDTH)) for _ in range(2))
    folder = write_pool(tmp_path / "pool", img, txt)
    of = [{"name": "negcliploss", "batch": ROWS, "weight": 0.5}]
    found = chosen(folder, tmp_path / "a", "fusion", of=of)
    assert found.digest == chosen(folder, tmp_path / "b", "negcliploss", batch=ROWS).digest


@pytest.mark.parametrize(
    ("method", "terms"),
    [(dp4tl, [{"clusters": 3}, {"clusters": 7}]), (perplexity, [{"texts": "trusted", "n": 1}, {"texts": "pool"}])],
)
def test_terms_of_one_method_do_not_share_files(
    tmp_path: Path, rng: np.random.Generator, ctx: SelectionContext, method: Any, terms: list[dict[str, Any]]
) -> None:
    texts = [f"a {word} dog number {row}" for row, word in enumerate(rng.choice(["red", "blue", "odd"], ROWS))]
    pool = plant(tmp_path / "pool", texts=texts, features={"l14_img": rng.normal(size=(ROWS, WIDTH))})
    plant(tmp_path / "pool" / "targets" / "trusted", texts=["a red dog", "blue"] * 5)
    write_targets(tmp_path / "pool", rng.normal(size=(90, WIDTH)))
    alone = [method.scores(pool, ctx=context(tmp_path / str(i)), **term) for i, term in enumerate(terms)]
    of = plugins.bind(
        plugins.resolve(MethodConfig(name="fusion")),
        {
            "of": [
                {"name": method.__name__.split(".")[1], "weight": w} | term
                for w, term in zip((1, -1), terms, strict=True)
            ]
        },
    )["of"]
    found = fusion.scores(pool, ctx=ctx, of=of, by="value")
    np.testing.assert_array_equal(found, (alone[0].astype(float) - alone[1]).astype(np.float32))


def test_what_fusion_refuses() -> None:
    method = plugins.resolve(MethodConfig(name="fusion"))
    for of, message in [
        ([{"name": "negcliploss", "fraction": 0.2}], "negcliploss gives its scores here, where fraction has no effect"),
        ([{"column": "x", "arch": "l14"}], "takes nothing but a weight"),
        ([{"column": "x", "weight": "heavy"}], "weight 'heavy' is not a number"),
        ([{"column": "x", "weight": 0}], "weight 0 is not a number other than 0"),
        (["clip_scor"], "did you mean 'clip_score'"),
        ([{"name": "negcliploss", "bach": 3}], "did you mean 'batch'"),
        ([{"weight": 3}], r"neither a method's name nor .* nor \{column: …\}"),
        ([{"name": "negcliploss", "target": "mine:select"}], "only method=custom has a target"),
    ]:
        with pytest.raises(ConfigError, match=message):
            plugins.bind(method, {"of": of})


MINE = """
import numpy as np

def select(pool, /, *, ctx, times: float = 1.0, shape: str = "right"):
    return pool.uids()

def scores(pool, /, *, ctx, times, shape):
    if shape == "words":
        return np.array(["a"] * len(pool))
    if shape == "none":
        return np.full(len(pool), np.nan)
    if shape == "unknown":
        raise ValueError("this shape is not known")
    return np.arange(len(pool) if shape == "right" else 3) * times
"""


def test_fusion_takes_the_scores_of_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scoring_of_test.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = plant(tmp_path / "pool", scores=np.linspace(0, 1, 50))
    mine = {"name": "custom", "target": "scoring_of_test:select"}
    bound = plugins.bind(plugins.resolve(MethodConfig(name="fusion")), {"of": [{**mine, "times": -2}]})
    found = fusion.scores(pool, ctx=context(tmp_path / "s"), of=bound["of"], by="value")
    assert found.tolist() == [-2.0 * row for row in range(50)]
    for kind, shape, said in [
        (
            MethodError,
            "wrong",
            r"scoring_of_test:select: .* an array of shape \(3,\) and dtype float64, not one number",
        ),
        (MethodError, "words", r"scoring_of_test:select: .* an array of shape \(50,\) and dtype <U1, not one number"),
        (MethodError, "unknown", r"method scoring_of_test:select: raised ValueError: this shape is not known"),
        (ConfigError, "none", r"no pair has a score by custom scoring_of_test:select; leave that term out"),
    ]:
        with pytest.raises(kind, match=said):
            chosen(tmp_path / "pool", tmp_path, "fusion", of=[{**mine, "shape": shape}, "clip_score"])
    (tmp_path / "choosing_of_test.py").write_text("scores = {'a': 1}\n" + MINE.partition("def scores")[0])
    found = fusion.scores(
        pool, ctx=context(tmp_path / "t"), of=[{"name": "custom", "target": "choosing_of_test:select", "weight": 1}]
    )
    assert len(set(found.tolist())) == 1  # all are kept
