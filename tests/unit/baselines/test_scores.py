"""Choosing by the scores of pairs, and what has none."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_pool import uid_hex, write_file, write_metadata
from planted_pool import ROWS, WIDTH, chosen, kept_rows, plant, write_pool, write_targets
from scipy import special, stats
from threadpoolctl import threadpool_info, threadpool_limits

from baselines import _scores
from harness import Pool, SelectionContext, executor
from harness.errors import ArtifactError, ConfigError, HarnessError
from harness.nearest import unit
from harness.records import read_record

FILES = 3


@given(st.lists(st.integers(-3, 3).map(float) | st.just(float("nan")), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_the_best_are_those_the_reference_keeps(values: list[float], fraction: float) -> None:
    scores = np.array(values, dtype=np.float32)
    border = -np.sort(-scores)[int(len(scores) * fraction)]
    expected = scores >= border if not np.isnan(border) else ~np.isnan(scores)
    assert np.array_equal(_scores.best(scores, fraction), expected)


def test_the_best_of_everything_is_everything() -> None:
    assert _scores.best(np.array([1, np.nan], np.float32), 1.0).all()


def test_the_first_draw_has_the_odds_of_the_logits(rng: np.random.Generator) -> None:
    scores = np.array([1.0, 2.0, 4.0, np.nan, 4.5], dtype=np.float32)
    deviation = np.nanstd(scores)
    for temperature in (0.5, 1.0, 3.0):
        odds = special.softmax(scores[~np.isnan(scores)].astype(float) / deviation / temperature)
        first = [int(_scores.sampled(scores, temperature, 1, rng)[0]) for _ in range(1500)]
        counts = np.bincount(first, minlength=5)
        assert counts[3] == 0
        assert stats.chisquare(counts[[0, 1, 2, 4]], odds * 1500).pvalue > 1e-3


def test_sampling_tends_to_the_best_and_to_an_even_draw(tmp_path: Path, rng: np.random.Generator) -> None:
    scores = np.arange(ROWS) / ROWS
    folder = write_pool(tmp_path, np.ones((ROWS, 2)), np.ones((ROWS, 2)), rng.permutation(scores))
    best = chosen(folder, tmp_path / "a", "score_sampling", temperature=0)
    cold = chosen(folder, tmp_path / "b", "score_sampling", temperature=1e-6)
    warm = chosen(folder, tmp_path / "c", "score_sampling", temperature=1)
    hot = chosen(folder, tmp_path / "d", "score_sampling", temperature=1e6)
    assert best.digest == cold.digest == chosen(folder, tmp_path / "e", "clip_score").digest
    overlap = [len(best.intersection(other)) for other in (warm, hot)]
    assert len(best) == len(warm) == len(hot) == int(ROWS * 0.3) + 1
    # Chance is 0.3 of the size with a deviation below 7 pairs.
    assert abs(overlap[1] - 0.3 * len(best)) < 35 and overlap[1] + 20 < overlap[0] < len(best)


@pytest.mark.parametrize(
    ("scores", "told"),
    [(np.repeat([3.0, 2.0, 1.0], 100), ["9 pairs more than asked for, whose score ties with the border's"]),
     (np.arange(300.0), [])],
)  # fmt: skip
def test_ties_at_the_border_are_told(
    tmp_path: Path, ctx: SelectionContext, scores: npt.NDArray[np.float32], told: list[str]
) -> None:
    kept = _scores.kept(plant(tmp_path, scores=scores), ctx, scores, 0.3)
    assert len(kept) == 91 + 9 * len(told)
    assert ctx.remarks == told


def test_pairs_without_a_score_are_never_drawn(tmp_path: Path) -> None:
    scores = np.where(np.arange(ROWS) % 2 == 0, np.nan, 1.0)
    folder = write_pool(tmp_path, np.ones((ROWS, 2)), np.ones((ROWS, 2)), scores)
    found = kept_rows(chosen(folder, tmp_path, "score_sampling", fraction=0.9))
    assert np.array_equal(found, ~np.isnan(scores))


def test_products_use_one_thread_so_that_cores_do_not_matter(tmp_path: Path) -> None:
    pool = Pool.open(write_pool(tmp_path, np.ones((30, 2)), np.ones((30, 2))), executor=executor.local(1))

    def threads(table: Any, features: dict[str, np.ndarray]) -> np.ndarray:
        libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
        return np.full(table.num_rows, max(library["num_threads"] for library in libraries))

    with threadpool_limits(2, user_api="blas"):
        assert set(_scores.computed(pool, threads, features=["l14_img"], name="threads")) == {1}


def test_a_column_that_is_no_score(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path)
    for name in ("compute_aware", "caption_dedup", "codebook"):
        with pytest.raises(ConfigError, match="'text' of the pool holds string, not numbers"):
            chosen(folder, tmp_path, name, score="text", **({"clusters": 2} if name == "codebook" else {}))
    with pytest.raises(ConfigError, match="'text' of the pool holds string, not numbers"):
        chosen(folder, tmp_path, "score_sampling", column="text")
    with pytest.raises(ArtifactError, match=r"no column 'clip_l15_similarity_score' .*harness\.score` makes"):
        chosen(folder, tmp_path, "score_sampling", column="clip_l15_similarity_score")


def test_infinite_scores_have_no_deviation(tmp_path: Path) -> None:
    scores = np.append(np.arange(9.0), np.inf)
    folder = write_pool(tmp_path, np.ones((10, 2)), np.ones((10, 2)), scores)
    assert np.flatnonzero(kept_rows(chosen(folder, tmp_path, "clip_score", fraction=0.2), 10)).tolist() == [7, 8, 9]
    with pytest.raises(ConfigError, match="infinite"):
        chosen(folder, tmp_path, "score_sampling")
    with pytest.raises(ConfigError, match="infinite"):
        chosen(folder, tmp_path, "fusion", by="deviation", of=[{"column": "clip_l14_similarity_score"}])


BROKEN = [3, 250, 599, 17, 18, 400]
"""The first half are not finite, the others zeros, as harness.score writes them for pairs that are not there."""


CLUSTERED = (
    "prototypes", "density_pruning", "semdedup", "codebook", "cluster_bandit", "cluster_reweighting", "cluster_mixture",
)  # fmt: skip


@pytest.fixture(scope="module")
def with_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool whose pictures fit their captions; some have no embeddings, see BROKEN."""
    rng = np.random.default_rng(11)
    img = unit(rng.normal(size=(ROWS, WIDTH)))
    txt = unit(img + 0.3 * rng.normal(size=img.shape))
    img[BROKEN[0]], txt[BROKEN[0]] = np.nan, np.nan
    img[BROKEN[1], 0], txt[BROKEN[2]] = np.inf, np.inf
    img[BROKEN[2]] = np.nan
    img[BROKEN[3:]], txt[BROKEN[3:]] = 0, 0
    folder = write_pool(tmp_path_factory.mktemp("broken"), img, txt, np.where(np.isnan(img[:, 0]), 0, 0.5))
    write_targets(folder, img[20:70])
    np.save(folder / "points.npy", img[20:26].astype(np.float32))
    return folder


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("dfn_head", {}),
        ("color_filter", {}),
        ("good_vs_random", {}),
        ("negcliploss", {}),
        ("normsim", {}),
        ("normsim", {"norm": "l2"}),
        ("rds_plus", {}),
        ("simcore", {"clusters": 4}),
        ("dp4tl", {"centroids": "points.npy"}),
        ("fusion", {"of": [{"name": "normsim"}, {"name": "negcliploss"}], "by": "deviation"}),
        ("prototypes", {"clusters": 4}),
        ("density_pruning", {"clusters": 4}),
        ("density_pruning", {"clusters": 4, "keep": "score"}),
        ("semdedup", {"clusters": 4}),
        ("codebook", {"clusters": 4, "aligned": 1}),
        ("cluster_bandit", {"clusters": 4, "key": "l14_img"}),
        ("cluster_reweighting", {"clusters": 4, "key": "l14_img"}),
        ("cluster_mixture", {"clusters": 4, "key": "l14_img", "candidate": 0}),
    ],
)
def test_a_pair_with_a_broken_embedding_has_no_score(
    with_broken: Path, tmp_path: Path, name: str, params: dict[str, Any]
) -> None:
    params = {key: str(with_broken / value) if key == "centroids" else value for key, value in params.items()}
    found = kept_rows(chosen(with_broken, tmp_path, name, fraction=0.9, **params))
    assert not found[BROKEN].any() and found.sum() == pytest.approx(0.9 * ROWS, abs=55)
    if name in CLUSTERED:
        remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
        assert any(re.match(r"6 of 600 pairs have no .* and take no part", remark) for remark in remarks)


@pytest.mark.parametrize("name", ["cluster_bandit", "cluster_reweighting"])
def test_a_broken_embedding_does_not_spoil_a_head(with_broken: Path, tmp_path: Path, name: str) -> None:
    subset = chosen(with_broken, tmp_path, name, fraction=0.5, clusters=4, key="l14_img")
    assert len(subset) == 300


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("codebook", {}), ("density_pruning", {"keep": "score"}), ("compute_aware", {}), ("good_vs_random", {}),
        ("cluster_bandit", {"reward": "score"}), ("cluster_reweighting", {"keep": "score"}), ("dfn_head", {}),
        ("color_filter", {}),
    ],
)  # fmt: skip
def test_where_no_pair_has_a_score_it_is_said(
    tmp_path: Path, rng: np.random.Generator, name: str, params: dict[str, Any]
) -> None:
    """And nothing is chosen by the order of the pool."""
    img = rng.normal(size=(ROWS, WIDTH))
    folder = write_pool(tmp_path / "pool", img, img, np.full(ROWS, np.nan))
    with pytest.raises(HarnessError, match=r"have no l14_.*score|have a number in|no pair to trust"):
        chosen(folder, tmp_path, name, **params, **({"clusters": 4} if name in CLUSTERED else {}))


@pytest.mark.parametrize("name", ["normsim", "rds_plus", "simcore", "dp4tl", "dfn_head", "color_filter"])
def test_embeddings_of_another_width_are_refused(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    img = rng.normal(size=(ROWS, WIDTH))
    folder = write_pool(tmp_path / "pool", img, img)
    write_targets(folder, img[:20, :-1])
    write_pool(folder / "targets" / "trusted", img[:, :-1], img[:, :-1])
    with pytest.raises(ArtifactError, match=rf"embeddings are {WIDTH - 1} wide, l14_img of .* {WIDTH}; embed both"):
        chosen(folder, tmp_path, name)


def test_a_target_of_nothing_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    img = rng.normal(size=(ROWS, WIDTH))
    folder = write_pool(tmp_path / "pool", img, img)
    for rows, says in ((img[:0], "holds no row of l14_img"), (np.zeros((3, WIDTH)), "are zeros or not finite")):
        write_targets(folder, rows)
        with pytest.raises(ArtifactError, match=says):
            chosen(folder, tmp_path, "dp4tl")


def test_broken_targets_and_centroids_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    img = rng.normal(size=(ROWS, WIDTH))
    folder = write_pool(tmp_path, img, img)
    write_targets(folder, np.where(np.arange(50)[:, None] == 7, np.nan, img[:50]))
    with pytest.raises(ArtifactError, match="target embeddings are zeros or not finite"):
        chosen(folder, tmp_path, "normsim")
    np.save(tmp_path / "points.npy", np.full((2, WIDTH), np.inf, np.float32))
    with pytest.raises(ArtifactError, match=r"points\.npy: some centroids are not finite"):
        chosen(folder, tmp_path, "dp4tl", centroids=str(tmp_path / "points.npy"))


def test_scores_of_another_model_can_be_chosen_by(tmp_path: Path, rng: np.random.Generator) -> None:
    scores = rng.permutation(ROWS) / ROWS
    for number, rows in enumerate(np.array_split(np.arange(ROWS), FILES)):
        columns = {"uid": [uid_hex(row) for row in rows], "clip_dfn_similarity_score": scores[rows]}
        write_file(tmp_path / "metadata" / f"{number:032x}.parquet", columns)
    assert np.array_equal(kept_rows(chosen(tmp_path, tmp_path, "clip_score", arch="dfn")), scores >= 1 - 181 / ROWS)
