"""Small models on stored embeddings: a bilinear head trained with CLIP's loss, and logistic regression.

Both losses are convex, so that a head is a function of its data alone: no learning rate, no order, no early stop.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines._scores import Floats
from harness.nearest import one_thread

TAU = 0.01
"""Temperature of the contrastive loss: where CLIP's own training ends."""
GROUP = 256
"""Pairs that are contrasted with each other in training."""


def bilinear(
    img: Floats, txt: Floats, *, start: Floats | None = None, penalty: float, rng: np.random.Generator,
    steps: int = 50, tau: float = TAU,
) -> Floats:  # fmt: skip
    """The matrix W (width, width) that makes img @ W @ txt.T tell the pairs `img`, `txt` (n, width) apart.

    It minimises CLIP's loss in groups of 256 pairs plus penalty / 2 * |W - start|^2 (the identity where `start` is
    None: the CLIP score itself), by at most `steps` iterations of L-BFGS.
    """
    order = rng.permutation(len(img))
    groups = [(img[part], txt[part]) for part in np.array_split(order, max(1, len(img) // GROUP))]
    first = np.eye(img.shape[1], dtype=np.float32) if start is None else start

    def objective(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = point.reshape(first.shape).astype(np.float32)
        apart = point - first.ravel()
        total = penalty / 2 * float(apart @ apart)
        slope = np.zeros(first.shape, dtype=np.float64)
        for left, right in groups:
            logits = left @ weights @ right.T / tau
            loss_row, by_row = _cross_entropy(logits, 1)
            loss_column, by_column = _cross_entropy(logits, 0)
            total += (loss_row + loss_column) / 2 / len(img)
            pull = (by_row + by_column) / 2 - np.eye(len(left), dtype=np.float32)
            slope += left.T @ (pull @ right) / (tau * len(img))
        return total, slope.ravel() + penalty * apart

    return _minimum(objective, first.ravel(), steps).reshape(first.shape).astype(np.float32)


def contrastive_losses(
    img: Floats, txt: Floats, others: tuple[Floats, Floats], *, itself: npt.NDArray[np.int64] | None = None,
    tau: float = TAU,
) -> Floats:  # fmt: skip
    """CLIP's loss (n,), in nats, of each pair `img`, `txt` (n, width) in a batch with the pairs `others` (m, width).

    `itself` (n,) is the place of the pair among the others, -1 where it is none of them; it then counts once.
    """
    own = np.einsum("nw,nw->n", img, txt) / np.float32(tau)
    total = np.zeros(len(img), dtype=np.float64)
    for ours, theirs in ((img, others[1]), (txt, others[0])):
        logits = ours @ theirs.T / np.float32(tau)
        if itself is not None:
            inside = np.flatnonzero(itself >= 0)
            logits[inside, itself[inside]] = -np.inf
        # Finite, too, where the pair itself is the only other.
        top = logits.max(axis=1, initial=-1e30)
        logits -= top[:, None]
        with np.errstate(divide="ignore"):
            rest = np.log(np.exp(logits, out=logits).sum(axis=1)).astype(np.float64) + (top - own)
        # log(1 + exp(rest)) keeps the losses of sure pairs, far below the last bit of 1, apart. NaN stays NaN.
        with np.errstate(invalid="ignore"):
            total += np.logaddexp(0, rest)
    return (total / 2).astype(np.float32)


def logistic(rows: Any, good: npt.NDArray[np.bool_], *, penalty: float = 1e-3, steps: int = 200) -> Floats:
    """Weights (width,) and, last, intercept of the log odds that a row (n, width) is good.

    The classes weigh the same, whatever their sizes. `penalty` / 2 * |weights|^2 is added to the mean loss. Columns of
    an array are scaled to deviation 1 for it, those of a sparse matrix not; the weights are those of `rows` as given.
    """
    centre: Any = np.float32(0)
    scale: Any = np.float32(1)
    scaled = rows
    if isinstance(rows, np.ndarray):
        centre, scale = rows.mean(axis=0), rows.std(axis=0)
        scale = np.where(scale > 0, scale, np.float32(1))
        scaled = rows - centre
        scaled /= scale
    signs = np.where(good, 1.0, -1.0)
    share = np.where(good, 0.5 / max(good.sum(), 1), 0.5 / max((~good).sum(), 1))

    def objective(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = point[:-1]
        margins = signs * (scaled @ weights.astype(np.float32) + point[-1])
        loss = share @ np.logaddexp(0, -margins) + penalty / 2 * float(weights @ weights)
        pull = -share * signs * np.exp(-np.logaddexp(0, margins))
        return float(loss), np.append(scaled.T @ pull.astype(np.float32) + penalty * weights, pull.sum())

    found = _minimum(objective, np.zeros(rows.shape[1] + 1), steps)
    weights = found[:-1] / scale
    return np.append(weights, found[-1] - (weights * centre).sum()).astype(np.float32)


def _cross_entropy(logits: Floats, axis: int) -> tuple[float, Floats]:
    """Sum over the diagonal of minus the log of the softmax along `axis`, and that softmax."""
    shifted = logits - logits.max(axis=axis, keepdims=True)
    odds = np.exp(shifted)
    total = odds.sum(axis=axis, keepdims=True)
    return float(np.log(total).sum() - np.trace(shifted)), odds / total


def _minimum(
    objective: Callable[[npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]],
    start: npt.NDArray[np.floating],
    steps: int,
) -> npt.NDArray[np.float64]:
    # Workers use heads and never train them: they need not import this.
    from scipy import optimize

    with one_thread():
        found: npt.NDArray[np.float64] = optimize.minimize(
            objective, start.astype(np.float64), jac=True, method="L-BFGS-B", options={"maxiter": steps}
        ).x
    return found
