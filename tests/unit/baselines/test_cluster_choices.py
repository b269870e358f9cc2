"""Methods that choose among clusters: planted good clusters, planted scores of mixtures, and the sums behind them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from planted_pool import context, plant, rows_of

from baselines import (
    _clusters,
    _draw,
    _heads,
    _influence,
    _pairs,
    cluster_bandit,
    cluster_mixture,
    cluster_reweighting,
)
from baselines._mixtures import Run, fitted, next_round
from harness import ArtifactError, ConfigError, Pool
from harness.nearest import unit

WIDTH, CLUSTERS, EACH = 16, 8, 150
GOOD = (1, 4, 6)
"""Clusters whose pictures fit their captions; of the others each picture stands with another's caption."""


@pytest.fixture(scope="module")
def rows() -> npt.NDArray[np.int64]:
    """(1200,) planted cluster of each row."""
    return np.random.default_rng(2).permutation(np.repeat(np.arange(CLUSTERS), EACH))


@pytest.fixture(scope="module")
def pool(rows: npt.NDArray[np.int64], tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Captions in eight clusters; a right picture equals its caption up to some noise. Scores 1 in good clusters."""
    rng = np.random.default_rng(3)
    txt = unit(np.eye(WIDTH)[rows] + rng.normal(size=(len(rows), WIDTH)) * 0.15)
    good = np.isin(rows, GOOD)
    source = np.arange(len(rows))
    source[~good] = rng.permutation(source[~good])
    img = unit(txt[source] + rng.normal(size=txt.shape) * 0.05)
    folder = tmp_path_factory.mktemp("clusters")
    found = plant(folder, features={"l14_txt": txt, "l14_img": img}, scores=good + rng.normal(size=len(rows)) / 100)
    right = unit(rng.normal(size=(300, WIDTH)))
    plant(folder / "targets" / "trusted", features={"l14_txt": right, "l14_img": right})
    return found


def share_of_good(pool: Pool, rows: npt.NDArray[np.int64], found: Any) -> float:
    return float(np.isin(rows[rows_of(pool, found)], GOOD).mean())


# Sums


@pytest.mark.parametrize("seed", range(20))
def test_allotted_numbers_are_in_proportion_as_far_as_there_are_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 50, 8)
    weights = rng.dirichlet(np.full(8, 0.3)) * (rng.random(8) < 0.8)
    total = int(rng.integers(1, 200))
    found = _draw.allotted(weights, sizes, total)
    assert found.sum() == min(total, sizes[weights > 0].sum()) and (found <= sizes).all() and (found >= 0).all()
    assert not found[weights == 0].any()
    # All that are not full have one factor, and no full one is above it.
    there = (weights > 0) & (sizes > 0)
    free = there & (found < sizes)
    if free.any():
        factor = found[free].sum() / weights[free].sum()
        assert (abs(found[free] - factor * weights[free]) < 1 + 1e-9).all()
        assert (factor * weights[there & ~free] > sizes[there & ~free] - 1).all()


def test_allotted_numbers_of_extreme_weights() -> None:
    assert _draw.allotted(np.array([1.0, 1e-320, 0.0]), np.array([5, 9, 9]), 8).tolist() == [5, 3, 0]
    assert _draw.allotted(np.zeros(2), np.array([5, 9]), 3).tolist() == [0, 0]


def test_probes_are_rows_of_their_cluster() -> None:
    found = np.zeros(50, _clusters.PLACE)
    found["cluster"] = np.repeat([0, 2, 3], [30, 15, 5])
    probes = _clusters.probes(found, 10, 5, np.random.default_rng(0))
    assert [len(part) for part in probes] == [10, 0, 10, 5, 0]
    assert all((found["cluster"][part] == number).all() for number, part in enumerate(probes))
    assert len(set(np.concatenate(probes).tolist())) == 25 and np.any(np.diff(probes[0]) < 0)


def test_embeddings_at_rows_are_those_rows(pool: Pool) -> None:
    # The uids' order is the rows' here, so rows of a pool in another order are asked for too.
    rows = np.array([3, 4, 399, 400, 1100])
    img, txt = _pairs.embeddings_at(pool, rows, "l14")
    for name, found in (("l14_img", img), ("l14_txt", txt)):
        stored = np.concatenate(list(pool.features(name)))[rows]
        np.testing.assert_allclose(found, unit(stored), atol=1e-6)


# Influence


def test_influence_is_what_a_small_step_changes() -> None:
    rng = np.random.default_rng(4)
    img, txt, *others = (unit(rng.normal(size=(n, 5))) for n in (6, 6, 9, 9))
    one = unit(rng.normal(size=(2, 1, 5)).reshape(2, 5))[:, None]
    head = np.eye(5) + rng.normal(size=(5, 5)) * 0.1
    tau = 0.2

    def loss(weights: Any, pairs: Any) -> float:
        batch = (others[0] @ weights, others[1])
        return float(_heads.contrastive_losses(pairs[0] @ weights, pairs[1], batch, tau=tau).astype(float).mean())

    def slope(pairs: Any) -> Any:
        to_txt, to_img = _influence.misses(pairs[0], pairs[1], (*others, others[0] @ head), head, tau=tau)
        return (pairs[0].T @ to_txt + to_img.T @ pairs[1]) / (2 * len(pairs[0])) / tau

    for pairs in ((img, txt), (one[0], one[1])):
        step = rng.normal(size=(5, 5)) * 1e-2
        change = (loss(head + step, pairs) - loss(head - step, pairs)) / 2
        assert change == pytest.approx(float((slope(pairs) * step).sum()), rel=2e-2)


def test_influence_by_its_definition(pool: Pool, tmp_path: Path) -> None:
    judge = _influence.Influence.on(pool, context(tmp_path), None, "l14")
    img, txt = _pairs.embeddings_at(pool, np.arange(5), "l14")
    found = judge.of(img, txt)
    for row in range(5):
        to_txt, to_img = _influence.misses(img[row : row + 1], txt[row : row + 1], judge.others, judge.head)
        own = (img[row : row + 1].T @ to_txt + to_img.T @ txt[row : row + 1]) / 2
        assert found[row] == pytest.approx(float((own * judge.slope).sum()), rel=1e-4, abs=1e-7)


# The bandit


@pytest.fixture
def arms() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(20,) sizes of clusters, and (20000,) which rows are good: nine tenths of cluster 7, a fifth elsewhere."""
    cluster = np.repeat(np.arange(20), 1000)
    return np.full(20, 1000), np.random.default_rng(6).random(20_000) < np.where(cluster == 7, 0.9, 0.2)


def pull(arms: Any, *, total: int, explore: float, lot: int = 10) -> tuple[Any, int]:
    sizes, good = arms
    rows = np.split(np.arange(20_000), 20)
    return cluster_bandit.pulled(good.__getitem__, rows, sizes, total=total, lot=lot, probe=4, explore=explore)


def test_the_bandit_finds_the_good_cluster_with_fewer_judgements_than_even_ones(arms: Any) -> None:
    taken, judged = pull(arms, total=1000, explore=0.5)
    assert taken.sum() == 1000 and judged == 4 * 100
    assert taken.argmax() == 7
    # Even draws of as many pairs to judge would give the good cluster 50 pairs of the subset.
    assert taken[7] > 400
    # Nobody is left out: each cluster is pulled at least once.
    assert taken.min() >= 10


def test_exploring_evens_the_clusters_out(arms: Any) -> None:
    taken = [pull(arms, total=2000, explore=explore)[0][7] for explore in (0.0, 0.5, 1.0, 100.0)]
    assert taken[0] == 1000 and sorted(taken, reverse=True) == taken and taken[3] == 100


def test_a_cluster_gives_no_more_than_it_has(arms: Any) -> None:
    taken, _ = pull(arms, total=5000, explore=0.0)
    assert taken[7] == 1000 and taken.sum() == 5000 and taken.max() == 1000
    taken, judged = pull(arms, total=30_000, explore=1.0, lot=300)
    assert taken.tolist() == [1000] * 20 and judged == 4 * 4 * 20


@pytest.mark.parametrize("reward", ["influence", "score"])
def test_cluster_bandit_prefers_planted_good_clusters(
    pool: Pool, rows: npt.NDArray[np.int64], tmp_path: Path, reward: Any
) -> None:
    ctx = context(tmp_path)
    found = cluster_bandit.select(pool, ctx=ctx, clusters=CLUSTERS, pulls=90, explore=0.3, reward=reward)
    assert len(found) == 360
    # By chance 3 of 8.
    assert share_of_good(pool, rows, found) > 0.75
    assert any("pairs judged" in remark for remark in ctx.remarks)


@pytest.mark.parametrize("asked", [{"pulls": CLUSTERS}, {"fraction": 0.001}])
def test_clusters_that_no_pull_would_compare_are_refused(pool: Pool, tmp_path: Path, asked: Any) -> None:
    with pytest.raises(ConfigError, match=r"cluster_bandit: \d+ pulls of \d+ pairs compare none of \d+ clusters; ask"):
        cluster_bandit.select(pool, ctx=context(tmp_path), clusters=CLUSTERS, **asked)


def test_a_scored_pair_is_good_where_few_have_a_score(rows: npt.NDArray[np.int64], pool: Pool, tmp_path: Path) -> None:
    # Fewer have one than the fraction asks for, so that the border of the best lies among those without.
    img, txt = (np.concatenate(list(pool.features(name))) for name in ("l14_img", "l14_txt"))
    scores = np.where(np.isin(rows, GOOD[:1]), 1.0, np.nan)
    other = plant(tmp_path, features={"l14_img": img, "l14_txt": txt}, scores=scores)
    ctx = context(tmp_path / "s")
    found = cluster_bandit.select(other, ctx=ctx, clusters=CLUSTERS, pulls=90, explore=0.1, reward="score")
    assert (rows[rows_of(other, found)] == GOOD[0]).sum() == EACH


# Rounds


def test_weights_follow_the_scores_by_hand() -> None:
    cluster = np.repeat([0, 1, 2], [50, 30, 20])
    sizes = np.array([50, 30, 20])
    seen: list[int] = []

    def judge(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        assert not set(rows.tolist()) & set(seen)
        seen.extend(rows.tolist())
        return np.array([0.2, 0.4, 0.1])[cluster[rows]]

    found = cluster_reweighting.reweighted(judge, cluster, sizes, rounds=2, batch=20, rng=np.random.default_rng(0))
    wanted = np.array([5 * 0.2**2, 3 * 0.4**2, 2 * 0.1**2])
    np.testing.assert_allclose(found, wanted / wanted.sum())
    assert len(seen) == 40
    # The first round is drawn by size, the second by the weights after it.
    assert np.bincount(cluster[seen[:20]]).tolist() == [10, 6, 4]
    assert np.bincount(cluster[seen[20:]], minlength=3).tolist() == [8, 10, 2]


def test_rounds_end_when_the_pool_does() -> None:
    cluster, sizes = np.array([0, 0, 1]), np.array([2, 1])
    found = cluster_reweighting.reweighted(
        lambda rows: np.ones(len(rows)), cluster, sizes, rounds=9, batch=2, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(found, [2 / 3, 1 / 3])


def test_poor_clusters_fade(pool: Pool, rows: npt.NDArray[np.int64], tmp_path: Path) -> None:
    shares = []
    for rounds in (0, 1, 3):
        ctx = context(tmp_path)
        found = cluster_reweighting.select(pool, ctx=ctx, clusters=CLUSTERS, rounds=rounds, learn=600)
        assert len(found) == 360
        shares.append(share_of_good(pool, rows, found))
    assert shares[0] == pytest.approx(3 / 8, abs=0.02)
    assert shares[0] + 0.2 < shares[1] <= shares[2] and shares[2] > 0.9


def test_within_a_cluster_the_best_or_any(pool: Pool, rows: npt.NDArray[np.int64], tmp_path: Path) -> None:
    scores = np.concatenate(pool.map(lambda table: table["clip_l14_similarity_score"].to_numpy(),
                                     columns=["clip_l14_similarity_score"]))  # fmt: skip
    found = rows_of(
        pool, cluster_reweighting.select(pool, ctx=context(tmp_path), clusters=CLUSTERS, rounds=0, keep="score")
    )
    for number in range(CLUSTERS):
        members = np.flatnonzero(rows == number)
        kept = np.intersect1d(members, found)
        assert kept.tolist() == sorted(members[np.argsort(-scores[members])[: len(kept)]].tolist())


# Mixtures


def planted(mixtures: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The score of training on mixtures (M, 6), were it linear."""
    return mixtures @ np.array([0.1, 0.5, 0.2, 0.0, 0.3, 0.2])


def test_ridge_finds_a_planted_linear_score() -> None:
    rng = np.random.default_rng(7)
    known, fresh = (rng.dirichlet(np.ones(6), size=n) for n in (12, 200))
    added = fitted(known, planted(known))
    assert np.corrcoef(fresh @ added, planted(fresh))[0, 1] > 0.999
    assert np.argmax(fresh @ added) == np.argmax(planted(fresh))


def test_ridge_shrinks_to_nothing_where_scores_are_noise() -> None:
    rng = np.random.default_rng(8)
    known = rng.dirichlet(np.ones(6), size=200)
    noise = rng.normal(size=200)
    assert np.linalg.norm(fitted(known, noise)) < 0.3 * np.linalg.norm(np.linalg.lstsq(known, noise)[0])
    np.testing.assert_array_equal(fitted(np.full((3, 2), 0.5), np.array([1.0, 2.0, 3.0])), [0, 0])


def test_press_is_what_leaving_each_run_out_gives() -> None:
    rng = np.random.default_rng(9)
    known = rng.dirichlet(np.ones(4), size=10)
    scores = known @ np.array([1.0, 0.0, 0.5, 0.2]) + rng.normal(size=10) * 0.1
    unit = float((np.linalg.svd(known - known.mean(axis=0))[1] ** 2).mean())

    def ridge(rows: Any, told: Any, penalty: float) -> Any:
        centred = rows - rows.mean(axis=0)
        return np.linalg.solve(centred.T @ centred + penalty * np.eye(4), centred.T @ (told - told.mean()))

    from baselines._mixtures import PENALTIES

    errors = []
    for penalty in PENALTIES * unit:
        total = 0.0
        for out in range(10):
            rest = np.delete(np.arange(10), out)
            added = ridge(known[rest], scores[rest], penalty)
            told = (known[out] - known[rest].mean(axis=0)) @ added + scores[rest].mean()
            total += (scores[out] - told) ** 2
        errors.append(total)
    best = PENALTIES[int(np.argmin(errors))] * unit
    np.testing.assert_allclose(fitted(known, scores), ridge(known, scores, best), rtol=1e-6, atol=1e-9)


def test_rounds_come_nearer_to_the_best_mixture() -> None:
    rng = np.random.default_rng(10)
    drawn: list[npt.NDArray[np.float64]] = []

    def draw() -> npt.NDArray[np.float64]:
        drawn.append(rng.dirichlet(np.ones(6), size=100))
        return drawn[-1]

    first = next_round(draw, [])
    np.testing.assert_array_equal(first, drawn[0])
    rng = np.random.default_rng(10)
    runs = [Run(candidate=i, score=float(planted(first[i]))) for i in range(10)]
    second = next_round(draw, [runs])
    assert sorted(map(tuple, second)) == sorted(map(tuple, drawn[-1]))
    # Eight runs on the best by prediction are better than the best of the first ten.
    told = planted(second)
    assert told[:8].min() > planted(first[:10]).max() and told[0] == told.max()
    with pytest.raises(ConfigError, match="round 1: candidate 100 is none of the 100"):
        next_round(draw, [[*runs, Run(candidate=100, score=1)]])


def mixture_of(pool: Pool, rows: npt.NDArray[np.int64], found: Any) -> npt.NDArray[np.float64]:
    return np.bincount(rows[rows_of(pool, found)], minlength=CLUSTERS) / len(found)


def test_cluster_mixture_follows_its_runs(pool: Pool, rows: npt.NDArray[np.int64], tmp_path: Path) -> None:
    def chosen(**params: Any) -> npt.NDArray[np.float64]:
        given: dict[str, Any] = {
            "clusters": CLUSTERS,
            "fraction": 0.1,
            "candidates": 200,
            "concentration": 8.0,
            **params,
        }
        found = cluster_mixture.select(pool, ctx=context(tmp_path / "s"), **given)
        assert len(found) == 120
        return mixture_of(pool, rows, found)

    worth = np.isin(np.arange(CLUSTERS), GOOD).astype(float)
    mixtures = [chosen(candidate=i) for i in range(9)]
    assert len({tuple(mixture) for mixture in mixtures}) == 9
    np.testing.assert_array_equal(mixtures[3], chosen(candidate=3))
    told = [float(mixture @ worth) for mixture in mixtures]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"rounds": [[{"candidate": i, "score": x} for i, x in enumerate(told)]]}))
    result = chosen(runs=str(path))
    assert result @ worth > max(told)
    np.testing.assert_array_equal(result, chosen(runs=str(path), candidate=0))
    assert result @ worth >= chosen(runs=str(path), candidate=199) @ worth + 0.5


def test_cluster_mixture_of_everything_is_everything(pool: Pool, tmp_path: Path) -> None:
    params: dict[str, Any] = {"candidate": 2, "candidates": 5, "clusters": CLUSTERS, "concentration": 0.01}
    assert len(cluster_mixture.select(pool, ctx=context(tmp_path), fraction=1, **params)) == len(pool)


def test_cluster_mixture_refuses_what_does_not_fit(pool: Pool, tmp_path: Path) -> None:
    ctx = context(tmp_path)
    with pytest.raises(ConfigError, match=r"give method\.runs"):
        cluster_mixture.select(pool, ctx=ctx)
    with pytest.raises(ConfigError, match="candidate=5: there are 5"):
        cluster_mixture.select(pool, ctx=ctx, candidate=5, candidates=5)
    path = tmp_path / "runs.json"
    for text, error, match in (
        ("{", ArtifactError, "JSON"),
        ('{"rounds": []}', ConfigError, r"runs\.json.*rounds"),
        ('{"rounds": [[{"candidate": 0, "score": 1}]]}', ConfigError, r"runs\.json.*rounds"),
        ('{"rounds": [[{"candidate": -1, "score": 1}]]}', ConfigError, r"runs\.json.*rounds"),
    ):
        path.write_text(text)
        with pytest.raises(error, match=match):
            cluster_mixture.select(pool, ctx=ctx, runs=str(path))


def test_cluster_mixture_refuses_runs_on_other_mixtures(pool: Pool, tmp_path: Path) -> None:
    params: dict[str, Any] = {"clusters": CLUSTERS, "candidates": 9, "fraction": 0.1}
    told = []
    for candidate in range(3):
        ctx = context(tmp_path / "s")
        cluster_mixture.select(pool, ctx=ctx, candidate=candidate, **params)
        shares = [float(share) for share in ctx.remarks[-1].rpartition(": ")[2].split(", ")]
        told.append({"candidate": candidate, "score": candidate / 10, "mixture": shares})
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"rounds": [told]}))
    assert len(cluster_mixture.select(pool, ctx=context(tmp_path / "s"), runs=str(path), **params)) == 120
    for other in ({"seed": 1}, {"clusters": CLUSTERS + 1}):
        ctx = context(tmp_path / "t", seed=other.pop("seed", 0))
        with pytest.raises(ConfigError, match=r"round 1: candidate 0 is another mixture here than when it ran; pool"):
            cluster_mixture.select(pool, ctx=ctx, runs=str(path), **{**params, **other})
