"""Clusters whose weight is judged again and again by what a model makes of their pairs (Diversify and Conquer).

Yu et al., Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement, 2024: pairs are drawn from
k-means clusters; each round trains on what has been drawn so far, scores the new pairs, and multiplies the weight of
each cluster by its mean score, so that clusters of poor data fade. Here the model is a head on stored embeddings
(baselines/_heads), and the score is the chance that it gives to the right caption and picture among random others. No
pair has to be trusted. The paper keeps the rounds' draws themselves; here they only teach, and the subset is drawn by
the last weights.
Cost: k-means and one pass over the embeddings, as prototypes; then a pass and a head a round. About 60 bytes a row in
memory, and some 20 KB for each of `learn` pairs 768 wide.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _clusters, _draw, _heads, _pairs, _scores
from baselines._scores import Arch
from harness import Pool, SelectionContext
from harness.nearest import one_thread
from harness.uid import Uids

AGAINST, PENALTY = 512, 0.1
"""Pairs that each is contrasted with, and pull of the head to the identity, as in color_filter."""

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Judge = Callable[[Rows], Floats]


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    rounds: Annotated[int, Field(ge=0)] = 3,
    learn: Annotated[int, Field(ge=2)] = 12_000,
    keep: _clusters.Keep = "random",
    score: str = "clip_l14_similarity_score",
    clusters: _clusters.Clusters = 100,
    key: _clusters.Features = "l14_txt",
    arch: Arch = "l14",
) -> Uids:
    """Keep int(fraction * pool) pairs, from each cluster in proportion to its weight as far as it has them.

    Weights begin at the clusters' sizes. `rounds`: how often they are judged; 0 leaves the sizes. `learn`: pairs drawn
    in all rounds together; `keep`: a cluster gives pairs at random, or its best by the metadata column `score`;
    `clusters`, `key`: what is clustered, captions by default; `arch`: embeddings that the head learns from.
    """
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key, score=score if keep == "score" else None)
    sizes = _clusters.sizes(places, clusters)
    weights = sizes / sizes.sum()
    if rounds:
        judge = _by_head(pool, ctx, arch, places["row"])
        weights = reweighted(judge, places["cluster"], sizes, rounds=rounds, batch=-(-learn // rounds), rng=ctx.rng)
        faded = np.count_nonzero(weights < sizes / sizes.sum() / 2)
        ctx.remark(f"{faded} of {clusters} clusters lost more than half of their weight in {rounds} rounds")
    quotas = _draw.allotted(weights, sizes, _draw.size_of(len(pool), fraction))
    return pool.take(places["row"][_clusters.taken(places, quotas, keep, ctx.rng)])


def reweighted(
    judge: Judge, cluster: Rows, sizes: Rows, *, rounds: int, batch: int, rng: np.random.Generator
) -> Floats:
    """The clusters' weights (K,) after all rounds; their sum is 1.

    `judge(rows)`: scores (n,) > 0 of the new, ascending `rows`, after learning from them and all before; `cluster`
    (N,): of each row; `sizes` (K,): rows of each; `batch`: rows that a round draws, or what is left. A cluster that has
    no new rows keeps its weight.
    """
    weights: Floats = sizes / sizes.sum()
    keys = rng.random(len(cluster), dtype=np.float32)
    drawn, seen = np.zeros(len(sizes), dtype=np.int64), np.zeros(len(cluster), dtype=bool)
    for _ in range(rounds):
        drawn += _draw.allotted(weights, sizes - drawn, batch)
        # With the same keys each round's rows contain those of the rounds before.
        rows = _draw.top_of_groups(keys, cluster, drawn)
        new = rows[~seen[rows]]
        if not len(new):
            break
        seen[new] = True
        found = judge(new)
        counts = np.bincount(cluster[new], minlength=len(sizes))
        total = np.bincount(cluster[new], weights=found, minlength=len(sizes))
        weights = weights * np.where(counts > 0, total / np.maximum(counts, 1), found.mean())
        weights = weights / weights.sum()
    return weights


def _by_head(pool: Pool, ctx: SelectionContext, arch: str, pool_rows: Rows) -> Judge:
    """Judges rows of `pool_rows` by the chance that a head, trained on all so far, gives to the right one among others.

    The others are drawn at random. One of them is judged beside itself, so that its chance is a half at most.
    """
    others = _pairs.drawn(pool, ctx, AGAINST).embeddings(arch)
    known: list[tuple[_scores.Floats, _scores.Floats]] = []

    def judge(rows: Rows) -> Floats:
        known.append(_pairs.embeddings_at(pool, pool_rows[rows], arch))
        sides = [np.concatenate([pairs[side] for pairs in known]) for side in (0, 1)]
        head = _heads.bilinear(sides[0], sides[1], penalty=PENALTY, rng=ctx.rng)
        img, txt = known[-1]
        with one_thread():
            losses = _heads.contrastive_losses(img @ head, txt, (others[0] @ head, others[1]))
        return np.exp(-losses.astype(np.float64))

    return judge
