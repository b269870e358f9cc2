"""Heads that learn from pairs, alone and in the methods that train them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from metadata_pool import write_metadata
from planted_pool import ROWS, WIDTH, chosen, kept_rows, plant, uids, write_pool
from scipy import special

from baselines import _heads
from harness import Subset
from harness.errors import ArtifactError
from harness.nearest import unit
from harness.records import read_record
from harness.selection import run


def rotation(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]


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


def test_captions_without_a_word_are_not_good(tmp_path: Path, rng: np.random.Generator) -> None:
    texts = np.array([["a cat in a tree", "buy cheap now click", "", "?!"][kind] for kind in rng.integers(0, 4, ROWS)])
    folder = Path(plant(tmp_path / "pool", texts=texts.tolist()).path)
    good = texts == "a cat in a tree"
    Subset.of(uids(np.flatnonzero(good)[:50])).save(tmp_path / "trusted.npy")
    for temperature in (0, 5):
        found = chosen(folder, tmp_path / str(temperature), "good_vs_random", on="captions", fraction=0.4,
                       trusted=str(tmp_path / "trusted.npy"), temperature=temperature)  # fmt: skip
        assert not (kept_rows(found) & np.isin(texts, ["", "?!"])).any()


@pytest.mark.parametrize("name", ["color_filter", "good_vs_random", "negcliploss"])
def test_pairs_without_embeddings_teach_nothing(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    rows = 4 * ROWS
    img = unit(rng.normal(size=(rows, WIDTH)) + 0.8)
    txt = unit(img + 0.6 * rng.normal(size=img.shape))
    wrong = np.flatnonzero(rng.random(rows) < 0.6)
    txt[wrong] = txt[np.roll(wrong, 1)]
    right = ~np.isin(np.arange(rows), wrong)
    gone = rng.random(rows) < 0.9
    folder = write_pool(tmp_path / "pool", img * ~gone[:, None], txt * ~gone[:, None])
    write_pool(folder / "targets" / "trusted", img[right & gone], txt[right & gone])
    kept = kept_rows(chosen(folder, tmp_path, name, fraction=0.4 * (~gone).mean()), rows)
    assert right[kept].mean() > 0.5 > right.mean()
    assert not (kept & gone).any()


def test_without_trusted_pairs_the_best_scores_are_trusted(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "pool", (200, 150))
    chosen(folder, tmp_path, "dfn_head")
    remarks = read_record(tmp_path / "out" / "subset.json", "subset").payload["remarks"]
    assert remarks == [run.METADATA_ONLY, "trusted: the 10% with the best l14 scores, as the pool offers no pairs"]


def test_a_trusted_file_of_strangers(planted: tuple[Path, np.ndarray, Path], tmp_path: Path) -> None:
    Subset.of(uids(np.arange(ROWS, ROWS + 3))).save(tmp_path / "strangers.npy")
    with pytest.raises(ArtifactError, match=r"strangers\.npy: none of its 3 uids is in the pool"):
        chosen(planted[0], tmp_path, "dfn_head", trusted=str(tmp_path / "strangers.npy"))
