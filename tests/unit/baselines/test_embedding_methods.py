"""Methods on stored embeddings and scores, on pools with a planted answer or against the formula written out."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metadata_pool import uid_hex, write_file, write_metadata
from planted_pool import context, plant
from scipy import special, stats
from threadpoolctl import threadpool_info, threadpool_limits

from baselines import _heads, _scores, _turns, dp4tl, fusion, negcliploss, normsim, perplexity
from harness import Pool, SelectionContext, Subset, executor, uid
from harness.config import MethodConfig, load_scale
from harness.errors import ArtifactError, ConfigError
from harness.nearest import unit
from harness.records import read_record
from harness.selection import plugins, run

WIDTH = 16
ROWS = 600
FILES = 3


def write_pool(folder: Path, img: np.ndarray, txt: np.ndarray, scores: np.ndarray | None = None) -> Path:
    """A pool of these embeddings (rows, width); row i has the uid of i."""
    return Path(plant(folder, scores=scores, features={"l14_img": img, "l14_txt": txt}).path)


def write_targets(folder: Path, rows: np.ndarray) -> None:
    (folder / "targets").mkdir(exist_ok=True)
    np.savez(folder / "targets" / "train.npz", l14_img=rows.astype(np.float16), label=np.zeros(len(rows), np.int64))


def uids(rows: np.ndarray) -> uid.Uids:
    return uid.from_hex([uid_hex(row) for row in rows])


def chosen(folder: Path, out: Path, name: str, **params: Any) -> Subset:
    config = MethodConfig(name=name, params=params)
    work = executor.local(1)
    pool = Pool.open(folder, executor=work)
    return run.select(
        plugins.resolve(config), config, pool=pool, scale=load_scale("tiny"), out=out / "out", executor=work
    )


def kept_rows(subset: Subset, rows: int = ROWS) -> np.ndarray:
    """Which of the rows 0 … rows-1 a subset holds."""
    return uid.find(subset.uids, uids(np.arange(rows))) >= 0


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def ctx(tmp_path: Path) -> SelectionContext:
    return context(tmp_path / "scratch")


def rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]


# Choosing by scores


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
    with pytest.raises(ArtifactError, match="no column 'clip_l15_similarity_score'"):
        chosen(folder, tmp_path, "score_sampling", column="clip_l15_similarity_score")


def test_infinite_scores_have_no_deviation(tmp_path: Path) -> None:
    scores = np.append(np.arange(9.0), np.inf)
    folder = write_pool(tmp_path, np.ones((10, 2)), np.ones((10, 2)), scores)
    assert np.flatnonzero(kept_rows(chosen(folder, tmp_path, "clip_score", fraction=0.2), 10)).tolist() == [7, 8, 9]
    with pytest.raises(ConfigError, match="infinite"):
        chosen(folder, tmp_path, "score_sampling")
    with pytest.raises(ConfigError, match="infinite"):
        chosen(folder, tmp_path, "fusion", by="deviation", of=[{"column": "clip_l14_similarity_score"}])


BROKEN = [3, 250, 599]


@pytest.fixture(scope="module")
def with_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool whose pictures fit their captions; three pairs have embeddings that are not finite."""
    rng = np.random.default_rng(11)
    img = unit(rng.normal(size=(ROWS, WIDTH)))
    txt = unit(img + 0.3 * rng.normal(size=img.shape))
    img[BROKEN[0]], txt[BROKEN[0]] = np.nan, np.nan
    img[BROKEN[1], 0], txt[BROKEN[2]] = np.inf, np.inf
    img[BROKEN[2]] = np.nan
    folder = write_pool(tmp_path_factory.mktemp("broken"), img, txt, np.where(np.isnan(img[:, 0]), 0, 0.5))
    write_targets(folder, img[10:60])
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
        ("semdedup", {"clusters": 4}),
    ],
)
def test_a_pair_with_a_broken_embedding_has_no_score(
    with_broken: Path, tmp_path: Path, name: str, params: dict[str, Any]
) -> None:
    params = {key: str(with_broken / value) if key == "centroids" else value for key, value in params.items()}
    found = kept_rows(chosen(with_broken, tmp_path, name, fraction=0.9, **params))
    assert not found[BROKEN].any() and found.sum() == pytest.approx(0.9 * ROWS, abs=55)


@pytest.mark.parametrize("name", ["cluster_bandit", "cluster_reweighting"])
def test_a_broken_embedding_does_not_spoil_a_head(with_broken: Path, tmp_path: Path, name: str) -> None:
    subset = chosen(with_broken, tmp_path, name, fraction=0.5, clusters=4, key="l14_img")
    assert len(subset) == 300


def test_broken_targets_and_centroids_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    img = rng.normal(size=(ROWS, WIDTH))
    folder = write_pool(tmp_path, img, img)
    write_targets(folder, np.where(np.arange(50)[:, None] == 7, np.nan, img[:50]))
    with pytest.raises(ArtifactError, match="target embeddings are not finite"):
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


# Heads


def numeric_slope(objective: Callable[[np.ndarray], float], point: np.ndarray, step: float) -> np.ndarray:
    ways = step * np.eye(len(point))
    return np.array([(objective(point + way) - objective(point - way)) / step / 2 for way in ways])


def test_a_bilinear_head_is_a_minimum_of_its_loss(rng: np.random.Generator) -> None:
    img, txt = (unit(rng.normal(size=(40, 3))) for _ in range(2))
    penalty, tau = 0.1, 0.3
    head = _heads.bilinear(img, txt, penalty=penalty, rng=rng, tau=tau)

    def loss(point: np.ndarray) -> float:
        logits = img.astype(float) @ point.reshape(3, 3) @ txt.T / tau
        own = np.trace(logits)
        both = special.logsumexp(logits, axis=1).sum() + special.logsumexp(logits, axis=0).sum()
        return (both / 2 - own) / 40 + penalty / 2 * float(((point - np.eye(3).ravel()) ** 2).sum())

    start, found = np.eye(3).ravel(), head.ravel().astype(float)
    assert loss(found) < loss(start) - 0.01
    assert np.abs(numeric_slope(loss, found, 1e-5)).max() < 1e-2 * np.abs(numeric_slope(loss, start, 1e-5)).max()


def test_a_strong_penalty_leaves_the_head_where_it_starts(rng: np.random.Generator) -> None:
    img, txt = (unit(rng.normal(size=(64, 4))) for _ in range(2))
    start = rng.normal(size=(4, 4)).astype(np.float32)
    found = _heads.bilinear(img, txt, start=start, penalty=1e8, rng=rng)
    assert np.abs(found - start).max() < 1e-5


def test_logistic_regression_finds_the_log_odds(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(20_000, 3)).astype(np.float32) * np.array([1, 5, 0.2], np.float32) + 3
    odds = special.expit((rows - 3) @ np.array([1.0, -0.2, 0.0]))
    good = rng.random(len(rows)) < odds
    weights = _heads.logistic(rows, good, penalty=1e-6)
    # Four deviations of an estimate from 20,000 rows: about 0.017 / the column's own deviation each.
    assert np.all(np.abs(weights[:3] - [1.0, -0.2, 0.0]) < 4 * 0.017 / np.array([1, 5, 0.2]))


def test_classes_weigh_the_same(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(3000, 1)).astype(np.float32)
    good = np.arange(3000) < 300
    rows[good] += 2
    weights = _heads.logistic(rows, good, penalty=1e-6)
    border = -weights[1] / weights[0]
    assert border == pytest.approx(1.0, abs=0.15)


@pytest.fixture
def planted(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, Path]:
    """A pool where captions of right pairs are their pictures turned by a fixed rotation: cosines say nothing.

    The other rows have captions of other pictures. A uid file names a hundred of the right ones.
    """
    img = unit(rng.normal(size=(ROWS, WIDTH)))
    right = rng.random(ROWS) < 0.3
    txt = unit(img @ rotation(rng) + 0.1 * rng.normal(size=img.shape))
    wrong = np.flatnonzero(~right)
    txt[wrong] = txt[np.roll(wrong, 1)]
    folder = write_pool(tmp_path / "pool", img, txt)
    Subset.of(uids(np.flatnonzero(right)[:100])).save(tmp_path / "trusted.npy")
    return folder, right, tmp_path / "trusted.npy"


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(found[wanted].mean())


def test_a_filtering_head_finds_right_pairs_by_trusted_ones(
    planted: tuple[Path, np.ndarray, Path], tmp_path: Path
) -> None:
    folder, right, trusted = planted
    unseen = right & (np.cumsum(right) > 100)
    fraction = float(right.mean())
    found = kept_rows(chosen(folder, tmp_path / "a", "dfn_head", trusted=str(trusted), fraction=fraction))
    assert recall(found, unseen) > 0.9
    identity = kept_rows(
        chosen(folder, tmp_path / "b", "dfn_head", trusted=str(trusted), fraction=fraction, penalty=1e8)
    )
    assert recall(identity, unseen) < 0.5
    remarks = read_record(tmp_path / "a" / "out" / "subset.json", "subset").payload["remarks"]
    assert any("trusted: 100 pairs of the pool, by a uid file" in remark for remark in remarks)


def test_color_filter_prefers_the_kind_of_pair_that_is_trusted(tmp_path: Path, rng: np.random.Generator) -> None:
    img = unit(rng.normal(size=(ROWS, WIDTH)))
    kind = rng.random(ROWS) < 0.3
    turned = [unit(img @ rotation(rng) + 0.1 * rng.normal(size=img.shape)) for _ in range(2)]
    folder = write_pool(tmp_path / "pool", img, np.where(kind[:, None], turned[0], turned[1]))
    Subset.of(uids(np.flatnonzero(kind)[:100])).save(tmp_path / "trusted.npy")
    found = chosen(folder, tmp_path, "color_filter", trusted=str(tmp_path / "trusted.npy"), fraction=float(kind.mean()))
    assert recall(kept_rows(found), kind & (np.cumsum(kind) > 100)) > 0.9


def test_good_against_random_finds_the_good(tmp_path: Path, rng: np.random.Generator) -> None:
    img, txt = (unit(rng.normal(size=(ROWS, WIDTH))) for _ in range(2))
    good = img[:, 0] + txt[:, 1] > 0.25
    folder = write_pool(tmp_path / "pool", img, txt)
    write_pool(folder / "targets" / "trusted", img[good][:120], txt[good][:120])
    found = kept_rows(chosen(folder, tmp_path, "good_vs_random", fraction=float(good.mean()), penalty=0.01))
    assert recall(found, good & (np.cumsum(good) > 120)) > 0.75 > 2 * good.mean()
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert "trusted: the right pairs that the pool offers" in remarks


def test_good_captions_are_found_by_their_words(tmp_path: Path, rng: np.random.Generator) -> None:
    good = rng.random(ROWS) < 0.3
    words = np.array(["cat", "dog", "house", "tree", "river", "sale", "buy", "cheap", "click", "now"])
    texts = [" ".join(rng.choice(words[:7] if right else words[3:], 6)) for right in good]
    folder = Path(plant(tmp_path / "pool", texts=texts).path)
    Subset.of(uids(np.flatnonzero(good)[:100])).save(tmp_path / "trusted.npy")
    found = chosen(
        folder, tmp_path, "good_vs_random", on="captions", trusted=str(tmp_path / "trusted.npy"), fraction=good.mean()
    )
    assert recall(kept_rows(found), good & (np.cumsum(good) > 100)) > 0.85


def test_without_trusted_pairs_the_best_scores_are_trusted(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "pool", (200, 150))
    chosen(folder, tmp_path, "dfn_head")
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert remarks == [run.METADATA_ONLY, "trusted: the 10% with the best l14 scores, as the pool offers no pairs"]


def test_a_trusted_file_of_strangers(planted: tuple[Path, np.ndarray, Path], tmp_path: Path) -> None:
    Subset.of(uids(np.arange(ROWS, ROWS + 3))).save(tmp_path / "strangers.npy")
    with pytest.raises(ArtifactError, match=r"strangers\.npy: none of its 3 uids is in the pool"):
        chosen(planted[0], tmp_path, "dfn_head", trusted=str(tmp_path / "strangers.npy"))


# Formulas


@pytest.mark.parametrize("tau", [0.01, 0.5])
def test_negcliploss_is_the_formula(
    tmp_path: Path, rng: np.random.Generator, ctx: SelectionContext, tau: float
) -> None:
    img, txt = (rng.normal(size=(90, WIDTH)).astype(np.float16) for _ in range(2))
    pool = Pool.open(write_pool(tmp_path / "pool", img, txt))
    found = negcliploss.scores(pool, ctx=ctx, batch=90, tau=tau)
    similarity = unit(img).astype(float) @ unit(txt).astype(float).T
    by_text, by_image = (special.logsumexp(similarity / tau, axis=axis) for axis in (1, 0))
    assert found == pytest.approx(np.diag(similarity) - tau / 2 * (by_text + by_image), abs=1e-5)
    assert found.max() <= 0


def test_negcliploss_counts_a_pair_outside_the_batch_in_its_own(
    tmp_path: Path, rng: np.random.Generator, ctx: SelectionContext
) -> None:
    img, txt = (rng.normal(size=(90, WIDTH)).astype(np.float16) for _ in range(2))
    pool = Pool.open(write_pool(tmp_path / "pool", img, txt))
    batch = uid.find(pool.sample(30, rng=copy.deepcopy(ctx.rng)), uids(np.arange(90))) >= 0
    found = negcliploss.scores(pool, ctx=ctx, batch=30, tau=0.2)
    similarity = unit(img).astype(float) @ unit(txt).astype(float).T / 0.2
    for row in (int(np.flatnonzero(batch)[0]), int(np.flatnonzero(~batch)[0])):
        seen = batch.copy()
        seen[row] = True
        both = special.logsumexp(similarity[row, seen]) + special.logsumexp(similarity[seen, row])
        assert found[row] == pytest.approx(0.2 * (similarity[row, row] - both / 2), abs=1e-5)


def test_losses_of_sure_pairs_stay_apart(rng: np.random.Generator) -> None:
    img = unit(np.eye(3, 4) + 0.05 * rng.normal(size=(3, 4)))
    others = np.tile([0.0, 0, 0, 1], (5, 1)).astype(np.float32)
    found = _heads.contrastive_losses(img, img, (others, others), tau=0.02).astype(float)
    gap = (img.astype(float)[:, 3] - (img.astype(float) ** 2).sum(axis=1)) / 0.02
    assert np.all(gap < -30)
    np.testing.assert_allclose(found, 5 * np.exp(gap), rtol=1e-4)
    alone = _heads.contrastive_losses(img[:1], img[:1], (img[:1], img[:1]), itself=np.zeros(1, np.int64))
    assert alone.tolist() == [0.0]


def test_negcliploss_drops_a_caption_that_fits_everything(tmp_path: Path, rng: np.random.Generator) -> None:
    common = unit(rng.normal(size=(1, WIDTH)))
    img = unit(common + 0.15 * rng.normal(size=(ROWS, WIDTH)))
    own = unit(img + 0.2 * rng.normal(size=img.shape))
    bland = np.arange(ROWS) % 2 == 0
    txt = np.where(bland[:, None], common, own)
    folder = write_pool(tmp_path / "pool", img, txt, np.einsum("nw,nw->n", img, txt))
    by_loss = kept_rows(chosen(folder, tmp_path / "a", "negcliploss", fraction=0.4, tau=0.05))
    by_score = kept_rows(chosen(folder, tmp_path / "b", "clip_score", fraction=0.4))
    assert by_loss[bland].mean() < by_score[bland].mean() / 2


@pytest.mark.parametrize(("norm", "power"), [("max", np.inf), ("l2", 2)])
def test_normsim_is_the_formula(
    tmp_path: Path, rng: np.random.Generator, ctx: SelectionContext, norm: Any, power: float
) -> None:
    img = np.abs(rng.normal(size=(90, WIDTH))).astype(np.float16)
    targets = np.abs(rng.normal(size=(25, WIDTH))).astype(np.float16)
    folder = write_pool(tmp_path / "pool", img, img)
    write_targets(folder, targets)
    found = normsim.scores(Pool.open(folder), ctx=ctx, norm=norm)
    expected = np.linalg.norm(unit(targets).astype(float) @ unit(img).astype(float).T, ord=power, axis=0)
    assert found == pytest.approx(expected / (1 if norm == "max" else 5), abs=1e-5)


# Targets


@pytest.fixture
def clustered(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, np.ndarray]:
    """A pool of pictures in six clusters of unequal size, the clusters, and the cluster of each row."""
    points = np.eye(6, WIDTH)
    label = np.repeat(np.arange(6), [20, 60, 120, 160, 140, 100])
    rng.shuffle(label)
    img = unit(points[label] + 0.1 * rng.normal(size=(ROWS, WIDTH)))
    return write_pool(tmp_path / "pool", img, img), points, label


@pytest.mark.parametrize("name", ["rds_plus", "simcore"])
def test_targets_take_turns(clustered: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, name: str) -> None:
    folder, points, label = clustered
    write_targets(folder, points[[0, 1, 2]])
    subset = chosen(folder, tmp_path, name, fraction=59 / ROWS)
    taken = np.bincount(label[kept_rows(subset)], minlength=6)
    # 20 turns of three targets: all of cluster 0, as many of the others.
    assert taken.tolist() == [20, 20, 20, 0, 0, 0]
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert "targets: the train split that the pool offers" in remarks


def test_a_target_without_pairs_left_drops_out(clustered: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    folder, points, label = clustered
    write_targets(folder, points)
    subset = chosen(folder, tmp_path, "rds_plus", fraction=400 / ROWS)
    taken = np.bincount(label[kept_rows(subset)], minlength=6)
    # All of clusters 0, 1 and the rest by turns: 80 + 4 * 81 is the first whole turn above 400.
    assert taken.tolist() == [20, 60, 81, 81, 81, 81]


def test_simcore_puts_many_targets_into_few_clusters(
    clustered: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, rng: np.random.Generator
) -> None:
    folder, points, label = clustered
    many = np.repeat(points[[1, 2]], [90, 10], axis=0)
    write_targets(folder, many + 0.02 * rng.normal(size=many.shape))
    taken = np.bincount(label[kept_rows(chosen(folder, tmp_path, "simcore", clusters=2, fraction=0.15))], minlength=6)
    assert taken.tolist()[1:3] == [46, 46] and taken.sum() == 92


def test_turns_are_ranks_within_a_label() -> None:
    label = np.array([2, 0, 2, 2, 0], dtype=np.int32)
    product = np.array([0.1, 0.5, 0.9, 0.5, 0.6], dtype=np.float32)
    assert _turns.turns(label, product).tolist() == [2, 1, 0, 1, 0]


def test_dp4tl_keeps_the_clusters_that_targets_fall_into(
    clustered: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    folder, points, label = clustered
    write_targets(folder, np.repeat(points[[3, 1, 0]], [5, 2, 1], axis=0))
    np.save(tmp_path / "points.npy", points.astype(np.float32))
    subset = chosen(folder, tmp_path, "dp4tl", centroids=str(tmp_path / "points.npy"), fraction=229 / ROWS)
    # The clusters with 5 and 2 hits whole, and the best half of the one with 1.
    assert np.bincount(label[kept_rows(subset)], minlength=6).tolist() == [10, 60, 0, 160, 0, 0]


# Fusion


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
        (["clip_scor"], "did you mean 'clip_score'"),
        ([{"name": "negcliploss", "bach": 3}], "did you mean 'batch'"),
        ([{"weight": 3}], "neither a method's name nor"),
    ]:
        with pytest.raises(ConfigError, match=message):
            plugins.bind(method, {"of": of})
