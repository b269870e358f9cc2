"""Methods that look for pairs like those of a target."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_pool import ROWS, WIDTH, chosen, kept_rows, plant, write_pool, write_targets

from baselines import _targets, _turns, normsim
from harness import Pool, SelectionContext
from harness.nearest import unit
from harness.records import read_record


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


def test_centroids_of_dp4tl_do_not_grow_with_the_pool(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    img = rng.normal(size=(ROWS, WIDTH))
    plant(tmp_path / "pool", texts=["a photo of a dog"] * ROWS, features={"l14_img": img})
    write_targets(tmp_path / "pool", img[:5])
    seen = []
    kmeans = _targets.centroids.kmeans

    def watched(rows: np.ndarray, clusters: int, **more: Any) -> np.ndarray:
        seen.append((len(rows), clusters))
        return kmeans(rows, clusters, **more)

    monkeypatch.setattr(_targets, "BOUNDED", 6)
    monkeypatch.setattr(_targets, "ROWS_A_CLUSTER", 40)
    monkeypatch.setattr(_targets.centroids, "ROWS_A_CLUSTER", 50)
    monkeypatch.setattr(_targets.centroids, "kmeans", watched)
    for clusters in (None, 3, 12):
        chosen(tmp_path / "pool", tmp_path / str(clusters), "dp4tl", clusters=clusters)
    assert [clusters for _, clusters in seen] == [6, 3, 12]
    # A draw of 240 of 600 rows, and of 480 for twelve clusters, give or take five deviations.
    for (rows, _), wanted in zip(seen, (240, 240, 480), strict=True):
        assert abs(rows - wanted) < 60
