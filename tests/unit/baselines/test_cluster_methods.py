"""Methods on embedding clusters and duplicates: planted clusters and copies, and what the papers say of them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from metadata_pool import uid_hex, write_file
from planted_pool import context, plant, rows_of
from scipy import special
from threadpoolctl import threadpool_limits

from baselines import (
    _clusters,
    _draw,
    caption_dedup,
    codebook,
    density_pruning,
    phash_dedup,
    prototypes,
    semdedup,
)
from harness import ArtifactError, ConfigError, Pool
from harness.nearest import load, nearest_and_product, unit

Rows = npt.NDArray[np.float32]
DIRECTIONS = 4
SIZES = (300, 100, 100, 100)
"""Rows of each planted cluster, in this order in the pool."""
SPREADS = (0.02, 0.1, 0.25, 0.4)
"""How far they lie from their direction: the first cluster is large and dense."""


@pytest.fixture(scope="module")
def rows() -> Rows:
    """(600, 16) unit embeddings in four clusters around orthogonal directions."""
    rng = np.random.default_rng(5)
    parts = []
    for direction, (size, spread) in enumerate(zip(SIZES, SPREADS, strict=True)):
        noise = rng.normal(size=(size, 16)) * spread / 4
        noise[:, direction] += 1
        parts.append(noise)
    return unit(np.concatenate(parts))


@pytest.fixture(scope="module")
def cluster() -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(DIRECTIONS), SIZES)


@pytest.fixture(scope="module")
def pool(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    scores = np.random.default_rng(6).permutation(len(rows)) / len(rows)
    return plant(tmp_path_factory.mktemp("pool"), features={"l14_img": rows}, scores=scores)


def test_rows_are_taken_by_their_place(pool: Pool) -> None:
    for chosen in ([], [0], [599], [199, 200, 201, 400], list(range(600))):
        assert rows_of(pool, pool.take(np.array(chosen, dtype=np.int64))) == chosen


def test_clusters_are_found(pool: Pool, cluster: npt.NDArray[np.int64], tmp_path: Path) -> None:
    path = _clusters.centroids_of(pool, context(tmp_path), key="l14_img", clusters=DIRECTIONS)
    points = load(path)
    assert points.shape == (DIRECTIONS, 16)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-6)
    places = _clusters.places(pool, context(tmp_path), path, key="l14_img", score="clip_l14_similarity_score")
    assert len({(a, b) for a, b in zip(places["cluster"].tolist(), cluster.tolist(), strict=True)}) == DIRECTIONS
    assert (places["distance"][:300].mean(), 0) < (places["distance"][500:].mean(), 0)
    assert sorted(places["score"].tolist()) == pytest.approx(np.arange(600) / 600, abs=1e-6)
    with pytest.raises(ConfigError, match=r"clusters: 601 .* 600"):
        _clusters.centroids_of(pool, context(tmp_path), key="l14_img", clusters=601)


def test_any_array_of_the_npz_files_can_be_clustered(rows: Rows, tmp_path: Path) -> None:
    names = {"l14_img": rows[::-1], "dino_v2/img": rows}
    pool = plant(tmp_path / "pool", features=names)
    by_other = prototypes.select(pool, ctx=context(tmp_path / "s"), clusters=2, key="dino_v2/img")
    alone = plant(tmp_path / "alone", features={"l14_img": rows})
    assert rows_of(pool, by_other) == rows_of(alone, prototypes.select(alone, ctx=context(tmp_path / "t"), clusters=2))
    with pytest.raises(ArtifactError, match=r"0\.npz: no array 'l14_txt' \(there are: l14_img, dino_v2/img\)"):
        prototypes.select(pool, ctx=context(tmp_path / "u"), clusters=2, key="l14_txt")


def test_unit_keeps_rows_of_zeros_and_shows_what_is_not_finite() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]], dtype=np.float16))
    np.testing.assert_allclose(found[:2], [[0.6, 0.8], [0, 0]])
    assert np.isnan(found[2:]).all()


def test_the_nearest_of_nan_is_none() -> None:
    labels, products = nearest_and_product(np.array([[0, 1], [np.nan, 1]]), np.eye(2))
    assert labels.tolist() == [1, 0] and products[0] == 1 and np.isnan(products[1])


def test_an_array_is_loaded_again_where_its_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "points.npy"
    for size in (3, 4):
        np.save(path, np.full((size, 2), size))
        assert load(str(path)).tolist() == [[size] * 2] * size
    assert load(str(path)) is load(str(path))


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_prototypes_keep_the_far_or_the_near(rows: Rows, tmp_path: Path, keep: Any) -> None:
    # One prototype of 200 rows, all of which k-means sees: their mean direction, which can be computed here.
    pool = plant(tmp_path, features={"l14_img": rows[400:]})
    found = prototypes.select(pool, ctx=context(tmp_path / "s"), clusters=1, keep=keep, fraction=0.25)
    stored = unit(rows[400:].astype(np.float16))
    order = np.argsort(1 - stored @ unit(stored.mean(axis=0, keepdims=True))[0])
    assert rows_of(pool, found) == sorted((order[-50:] if keep == "hard" else order[:50]).tolist())


def test_prototypes_of_planted_clusters(pool: Pool, cluster: npt.NDArray[np.int64], tmp_path: Path) -> None:
    hard = prototypes.select(pool, ctx=context(tmp_path), clusters=DIRECTIONS, fraction=1 / 6)
    easy = prototypes.select(pool, ctx=context(tmp_path), clusters=DIRECTIONS, keep="easy", fraction=1 / 6)
    assert np.bincount(cluster[rows_of(pool, hard)], minlength=4)[:2].sum() == 0
    assert np.bincount(cluster[rows_of(pool, easy)], minlength=4)[0] == 100


def kept_shares(pool: Pool, found: Any, cluster: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.bincount(cluster[rows_of(pool, found)], minlength=DIRECTIONS) / np.array(SIZES)


def test_dense_clusters_lose_more(pool: Pool, cluster: npt.NDArray[np.int64], tmp_path: Path) -> None:
    found = density_pruning.select(pool, ctx=context(tmp_path), clusters=DIRECTIONS, temperature=0.02)
    assert len(found) == 180
    shares = kept_shares(pool, found, cluster)
    assert (np.diff(shares) > 0).all() and 0 < shares[0] < 0.1


def test_density_pruning_takes_all_that_a_cluster_has_and_no_more(
    pool: Pool, cluster: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    found = density_pruning.select(pool, ctx=context(tmp_path), clusters=DIRECTIONS, temperature=0.002, fraction=0.5)
    assert len(found) == 300
    # The most complex cluster wants nearly all 300 and has 100; the others share the rest.
    assert kept_shares(pool, found, cluster)[3] == 1


def test_density_pruning_within_a_cluster(pool: Pool, cluster: npt.NDArray[np.int64], tmp_path: Path) -> None:
    scores = np.random.default_rng(6).permutation(600) / 600
    found = rows_of(pool, density_pruning.select(pool, ctx=context(tmp_path), clusters=DIRECTIONS, keep="score"))
    for number in range(DIRECTIONS):
        members = np.flatnonzero(cluster == number)
        kept = np.intersect1d(members, found)
        best = members[np.argsort(-scores[members])[: len(kept)]]
        assert len(kept) and sorted(best.tolist()) == kept.tolist()


def test_complexity_of_clusters_by_hand() -> None:
    # Centroids at 0, 90 and 180 degrees: distances 1, 1 and 2.
    points = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    found = density_pruning.complexity(points, np.array([0, 0, 1, 2]), np.array([0.1, 0.3, 0.5, 0.0]), 2)
    np.testing.assert_allclose(found, [1.5 * 0.2, 1.0 * 0.5, 0])
    nearest = density_pruning.complexity(points, np.array([0, 0, 1, 2]), np.array([0.1, 0.3, 0.5, 0.0]), 1)
    np.testing.assert_allclose(nearest, [0.2, 0.5, 0])
    assert density_pruning.complexity(points[:1], np.array([0]), np.array([0.1]), 20).tolist() == [0]


def test_shares_by_complexity_from_the_coldest_to_the_hottest() -> None:
    values = np.array([0.1, 0.5, 0.5])
    np.testing.assert_allclose(density_pruning.softmax(values, 0.2), special.softmax(values / 0.2))
    assert density_pruning.softmax(values, 1e-308).tolist() == [0, 0.5, 0.5]
    np.testing.assert_allclose(density_pruning.softmax(values, 1e308), 1 / 3)


@pytest.mark.parametrize("seed", range(20))
def test_quotas_are_the_nearest_whole_numbers_that_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 50, 8)
    shares = rng.dirichlet(np.full(8, 0.5))
    total = int(rng.integers(1, 200))
    found = _draw.quotas(shares, sizes, total)
    assert found.sum() == min(total, sizes.sum()) and (found <= sizes).all() and (found >= 0).all()
    if total >= np.count_nonzero(sizes):
        assert (found[sizes > 0] >= 1).all()
    # Moving one from any cluster to another never comes nearer to what was wanted.
    wanted = shares * min(total, sizes.sum())
    least = np.minimum(sizes, 1 if total >= np.count_nonzero(sizes) else 0)
    cost = ((found - wanted) ** 2).sum()
    for i in np.flatnonzero(found > least):
        for j in np.flatnonzero(found < sizes):
            other = found.copy()
            other[i] -= 1
            other[j] += 1
            assert ((other - wanted) ** 2).sum() >= cost - 1e-6


def test_codebook_keeps_the_same_part_of_every_cluster(
    pool: Pool, cluster: npt.NDArray[np.int64], rows: Rows, tmp_path: Path
) -> None:
    found = rows_of(pool, codebook.select(pool, ctx=context(tmp_path), clusters=4, fraction=0.2, aligned=1))
    assert np.bincount(cluster[found]).tolist() == [60, 20, 20, 20]
    # Near and far alike: the kept of the largest cluster reach through all its distances.
    distance = 1 - rows[:300] @ unit(rows[:300].mean(axis=0, keepdims=True))[0]
    rank = np.argsort(np.argsort(distance))[[row for row in found if row < 300]]
    assert np.histogram(rank, bins=6, range=(0, 300))[0].tolist() == pytest.approx([10] * 6, abs=2)


def test_codebook_drops_what_is_not_aligned(pool: Pool, tmp_path: Path) -> None:
    scores = np.random.default_rng(6).permutation(600) / 600
    found = rows_of(pool, codebook.select(pool, ctx=context(tmp_path), clusters=4, fraction=0.3, aligned=0.5))
    assert len(found) == 180 and scores[found].min() >= 0.5
    with pytest.raises(ConfigError, match="aligned"):
        codebook.select(pool, ctx=context(tmp_path), fraction=0.6)


def test_spread_takes_even_steps() -> None:
    groups = np.array([0] * 10 + [2] * 4, dtype=np.int32)
    chosen = codebook.spread(groups, np.array([5, 0, 1]))
    assert np.flatnonzero(chosen).tolist() == [1, 3, 5, 7, 9, 13]


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """40 different random embeddings; rows 40…69 are the first 30 again, a little changed."""
    rng = np.random.default_rng(8)
    base = unit(rng.normal(size=(40, 32)))
    near = unit(base[:30] + rng.normal(size=(30, 32)) * 0.01)
    return plant(tmp_path_factory.mktemp("copies"), features={"l14_img": np.concatenate([base, near])})


def test_semdedup_keeps_one_of_each_planted_pair(copies: Pool, tmp_path: Path) -> None:
    found = rows_of(copies, semdedup.select(copies, ctx=context(tmp_path), epsilon=0.05, clusters=1))
    assert sorted(row % 40 for row in found) == list(range(40))
    assert len(found) == 40


def test_semdedup_by_fraction_drops_the_most_alike_first(copies: Pool, tmp_path: Path) -> None:
    found = rows_of(copies, semdedup.select(copies, ctx=context(tmp_path), fraction=41 / 70, clusters=1))
    assert len(found) == 41 and {row % 40 for row in found} == set(range(40))
    with pytest.raises(ConfigError, match="not both"):
        semdedup.select(copies, ctx=context(tmp_path), fraction=0.5, epsilon=0.1)


def test_likeness_is_the_largest_cosine_to_one_before(
    pool: Pool, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semdedup, "BLOCK", 64)
    ctx = context(tmp_path)
    path = _clusters.centroids_of(pool, ctx, key="l14_img", clusters=3)
    places = _clusters.places(pool, ctx, path, key="l14_img")
    found = semdedup.likeness(pool, ctx, "l14_img", places)
    stored = unit(unit(rows.astype(np.float16)).astype(np.float16)).astype(np.float64)
    for number in range(3):
        members = np.flatnonzero(places["cluster"] == number)
        members = members[np.argsort(-places["distance"][members], kind="stable")]
        assert found[members[0]] == -1
        for place, row in list(enumerate(members))[1:]:
            assert found[row] == pytest.approx((stored[members[:place]] @ stored[row]).max(), abs=1e-6)


@pytest.mark.parametrize("width", [16, 64, 768])
@pytest.mark.parametrize(("epsilon", "kept"), [(0, 400), (1e-5, 200)])
def test_semdedup_drops_exact_copies_whatever_their_rounding(
    tmp_path: Path, width: int, epsilon: float, kept: int
) -> None:
    rows = np.tile(np.random.default_rng(4).normal(size=(200, width)), (2, 1))
    pool = plant(tmp_path / "p", features={"l14_img": rows})
    found = semdedup.select(pool, ctx=context(tmp_path / "s"), epsilon=epsilon, clusters=1)
    assert len(found) == kept


def test_clusters_are_of_directions_whatever_the_lengths(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = unit(np.eye(4)[np.arange(600) % 4] + 0.05 * rng.normal(size=(600, 4)))
    chosen = []
    for name, lengths in (("one", np.ones(600)), ("many", rng.lognormal(sigma=1, size=600))):
        pool = plant(tmp_path / name, features={"l14_img": rows * lengths[:, None]})
        found = prototypes.select(pool, ctx=context(tmp_path / f"{name}-s"), clusters=4, fraction=0.25)
        chosen.append(np.bincount(np.array(rows_of(pool, found)) % 4, minlength=4))
    assert (chosen[1] > 20).all() and np.abs(chosen[1] - chosen[0]).max() <= 2


def test_likeness_does_not_hang_on_the_number_of_cores(tmp_path: Path) -> None:
    pool = plant(tmp_path, features={"l14_img": np.random.default_rng(2).normal(size=(1500, 256))})
    ctx = context(tmp_path / "s")
    path = _clusters.centroids_of(pool, ctx, key="l14_img", clusters=2)
    places = _clusters.places(pool, ctx, path, key="l14_img")
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(semdedup.likeness(pool, ctx, "l14_img", places))
    np.testing.assert_array_equal(*found)


def test_semdedup_drops_more_the_larger_epsilon(pool: Pool, cluster: npt.NDArray[np.int64], tmp_path: Path) -> None:
    sizes = []
    for epsilon in (0.001, 0.01, 0.1):
        found = semdedup.select(pool, ctx=context(tmp_path), epsilon=epsilon, clusters=4)
        sizes.append(len(found))
        if epsilon == 0.01:
            # The dense cluster is one duplicate by then, of the widest nothing is.
            shares = kept_shares(pool, found, cluster)
            assert shares[0] == 1 / 300 and shares[3] == 1
    assert sizes[0] > sizes[1] > sizes[2]


def test_phash_dedup_keeps_the_first_of_each_group(tmp_path: Path) -> None:
    pool = plant(tmp_path, texts=[""] * 10)
    names = [uid_hex(row) for row in range(10)]
    near = [names[row] for row in (0, 0, 2, 3, 2, 0, 6, 7, 8, 9)]
    exact = [names[row] for row in (0, 0, 2, 3, 4, 5, 6, 7, 8, 9)]
    # A sealed pool's order is another than the metadata's, and one pair has no picture.
    order = [5, 3, 1, 0, 9, 8, 7, 2, 4]
    columns = {"uid": names, "near": near, "exact": exact}
    write_file(tmp_path / "duplicates.parquet", {key: [column[i] for i in order] for key, column in columns.items()})
    assert rows_of(pool, phash_dedup.select(pool, ctx=context(tmp_path / "s"))) == [0, 2, 3, 6, 7, 8, 9]
    file = str(tmp_path / "duplicates.parquet")
    ctx = context(tmp_path / "s")
    found = phash_dedup.select(pool, ctx=ctx, same="exact", file=file)
    assert ctx.remarks == [f"1 of 10 pairs are not in {file} and are kept"]
    assert rows_of(pool, found) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_phash_dedup_keeps_one_of_a_group_whose_first_is_held_out(tmp_path: Path) -> None:
    pool = plant(tmp_path, texts=[""] * 4)
    names, gone = [uid_hex(row) for row in range(4)], uid_hex(99)
    columns = {"uid": [gone, *names], "near": [gone, gone, gone, names[2], gone], "exact": [gone, *names]}
    write_file(tmp_path / "duplicates.parquet", columns)
    assert rows_of(pool, phash_dedup.select(pool, ctx=context(tmp_path / "s"))) == [0, 2]


def test_phash_dedup_says_what_is_missing(tmp_path: Path) -> None:
    pool = plant(tmp_path, texts=[""] * 10)
    with pytest.raises(ArtifactError, match=r"duplicates\.parquet.*harness\.duplicates"):
        phash_dedup.select(pool, ctx=context(tmp_path / "s"))
    for number, columns in enumerate(({"uid": ["a"]}, {"uid": ["a"], "near": ["b"], "exact": ["a"]})):
        path = write_file(tmp_path / f"{number}.parquet", columns)
        with pytest.raises(ArtifactError, match=rf"{number}\.parquet"):
            phash_dedup.select(pool, ctx=context(tmp_path / "s"), file=str(path))
    strangers = {key: [uid_hex(row) for row in (50, 51)] for key in ("uid", "near", "exact")}
    path = write_file(tmp_path / "others.parquet", strangers)
    with pytest.raises(ArtifactError, match=r"others\.parquet: none of its uids is in the pool"):
        phash_dedup.select(pool, ctx=context(tmp_path / "s"), file=str(path))


def test_caption_dedup_keeps_the_best_of_equal_captions(tmp_path: Path) -> None:
    texts = ["a dog", "a cat", "a dog", "A dog!", "", "a dog", "", "a bird"]
    scores = [0.1, 0.2, 0.3, 0.9, np.nan, 0.3, 0.1, np.nan]
    pool = plant(tmp_path, texts=texts, scores=scores)
    ctx = context(tmp_path / "s")
    assert rows_of(pool, caption_dedup.select(pool, ctx=ctx)) == [1, 2, 3, 6, 7]
    assert rows_of(pool, caption_dedup.select(pool, ctx=ctx, same="words")) == [1, 3, 6, 7]
    assert rows_of(pool, caption_dedup.select(pool, ctx=ctx, most=2)) == [1, 2, 3, 4, 5, 6, 7]


def test_top_breaks_ties_by_place_and_puts_nan_last() -> None:
    keys = np.array([1.0, np.nan, 3.0, 1.0, 1.0, 2.0])
    assert _draw.top(keys, 3).tolist() == [0, 2, 5]
    assert _draw.top(keys, 4).tolist() == [0, 2, 3, 5]
    assert _draw.top(keys, 5).tolist() == [0, 2, 3, 4, 5]
    assert _draw.top(keys, 9).tolist() == list(range(6))


def test_top_of_groups() -> None:
    groups, keys = np.array([1, 0, 1, 1, 0, 2]), np.array([5.0, 1.0, 7.0, 7.0, np.nan, 0.0])
    assert _draw.top_of_groups(keys, groups, np.array([1, 2, 0])).tolist() == [1, 2, 3]
    assert _draw.top_of_groups(keys, groups, np.array([9, 1, 1])).tolist() == [1, 2, 4, 5]
