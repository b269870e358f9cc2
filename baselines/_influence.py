"""How training on a pair would change the loss on trusted pairs, to first order, for a head between stored embeddings.

The model is a head W (baselines/_heads) trained on random pairs of the pool, where their own gradients cancel but for
the penalty; the loss is CLIP's in a batch with random pairs. A step against the gradient of one pair lowers the loss
on the trusted pairs by the inner product of the two gradients (Pruthi et al. 2020, TracIn, at one checkpoint). The
inverse Hessian of influence functions is left out.
"""

from dataclasses import dataclass

import numpy as np

from baselines import _heads, _pairs
from baselines._scores import Floats
from harness import Pool, SelectionContext
from harness.nearest import one_thread

SIZE, AGAINST, PENALTY = 8192, 512, 0.1
"""Pairs learned from, pairs that each is contrasted with, and pull of the head to the identity, as in color_filter."""


@dataclass(frozen=True)
class Influence:
    """Judges pairs by their influence on the loss of trusted ones."""

    head: Floats
    """(width, width)."""
    others: tuple[Floats, Floats, Floats]
    """Embeddings (m, width) of the pairs to contrast with: pictures, captions, and pictures through the head."""
    slope: Floats
    """(width, width): gradient, times the temperature, of the trusted pairs' mean loss."""

    @classmethod
    def on(cls, pool: Pool, ctx: SelectionContext, trusted: str | None, arch: str) -> "Influence":
        """On trusted pairs, as _pairs.trusted gives them: at most 8,192, as many as the head learns from."""
        head = _heads.bilinear(*_pairs.drawn(pool, ctx, SIZE).embeddings(arch), penalty=PENALTY, rng=ctx.rng)
        pictures, captions = _pairs.drawn(pool, ctx, AGAINST).embeddings(arch)
        img, txt = _pairs.trusted(pool, ctx, trusted, arch, SIZE).embeddings(arch)
        with one_thread():
            others = (pictures, captions, pictures @ head)
            to_txt, to_img = misses(img, txt, others, head)
            slope: Floats = (img.T @ to_txt + to_img.T @ txt) / np.float32(2 * max(len(img), 1))
        return cls(head, others, slope)

    def of(self, img: Floats, txt: Floats) -> Floats:
        """(n,) of the pairs `img`, `txt` (n, width): above 0 where training on one lowers the trusted pairs' loss."""
        with one_thread():
            to_txt, to_img = misses(img, txt, self.others, self.head)
            by_img = np.einsum("nw,nw->n", img @ self.slope, to_txt)
            found: Floats = (by_img + np.einsum("nw,nw->n", to_img @ self.slope, txt)) / np.float32(2)
        return found


def misses(
    img: Floats, txt: Floats, others: tuple[Floats, Floats, Floats], head: Floats, *, tau: float = _heads.TAU
) -> tuple[Floats, Floats]:
    """What the head takes for the caption of each picture less its own caption, and for the picture of each caption.

    `img`, `txt` (n, width) are of length 1, `others` as in Influence, `head` is (width, width). Each result (n, width)
    is the mean of the batch's embeddings with the weights of the loss's softmax, less the right one.
    """
    mapped = img @ head
    own = np.einsum("nw,nw->n", mapped, txt)[:, None] / np.float32(tau)
    found = []
    for logits, theirs, right in (
        (mapped @ others[1].T, others[1], txt),
        (txt @ others[2].T, others[0], img),
    ):
        weights = np.concatenate([own, logits / np.float32(tau)], axis=1)
        weights -= weights.max(axis=1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=1, keepdims=True)
        found.append(weights[:, 1:] @ theirs - (1 - weights[:, :1]) * right)
    return found[0], found[1]
