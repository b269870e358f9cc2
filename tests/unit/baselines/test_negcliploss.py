"""CLIP's loss of a pair in place of its score, against the formula written out."""

import copy
from pathlib import Path

import numpy as np
import pytest
from planted_pool import ROWS, WIDTH, chosen, kept_rows, uids, write_pool
from scipy import special

from baselines import _heads, negcliploss
from harness import Pool, SelectionContext, uid
from harness.nearest import unit


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
