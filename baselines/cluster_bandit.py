"""Clusters compete for a place in the subset, by the quality of a few pairs of each (Quad).

Zhang et al., Harnessing Diversity for Important Data Selection in Pretraining Large Language Models, 2024: each cluster
is an arm of a bandit. A pull draws some pairs of the cluster, judges them by their influence on the target, and takes
pairs from the cluster; the next pull goes to the cluster with the largest upper confidence bound (Auer et al. 2002,
UCB1), which good clusters have and those pulled seldom. So a small part of the pool is judged, and no good cluster
takes all. Here a pair is good (1) or not (0): its influence on trusted pairs (baselines/_influence) is above 0, or it
is among the best by a column. What a pull takes are any pairs of the cluster, judged or not.
Cost: k-means and one pass over the embeddings, as prototypes; a head, and four passes for some thousand pairs each;
of at most 256 pairs a cluster products with 512 others. About 60 bytes a row in memory, and 12 KB for each of these
pairs 768 wide. With reward=score only the clusters.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _clusters, _draw, _pairs, _scores
from baselines._influence import Influence
from baselines._scores import Arch
from harness import ConfigError, Pool, SelectionContext
from harness.uid import Uids

PROBES = 256
"""Pairs that are judged of one cluster at most; the mean of so many zeros and ones is off by .03."""

Rows = npt.NDArray[np.int64]
Good = npt.NDArray[np.bool_]
Judge = Callable[[Rows], Good]


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    pulls: Annotated[int, Field(ge=1)] = 1000,
    probe: Annotated[int, Field(ge=1, le=PROBES)] = 8,
    explore: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0,
    reward: Literal["influence", "score"] = "influence",
    keep: _clusters.Keep = "random",
    score: str = "clip_l14_similarity_score",
    trusted: str | None = None,
    clusters: _clusters.Clusters = 100,
    key: _clusters.Features = "l14_txt",
    arch: Arch = "l14",
) -> Uids:
    """Keep int(fraction * pool) pairs, in `pulls` equal lots, each from the cluster that then promises most.

    `pulls`: some for each cluster; with no more than clusters none would be compared, which is refused. `probe`: pairs
    judged at a pull; `explore`: weight of the bound's width, 0 follows the means alone; `reward`: a good pair has
    influence above 0, or is in the best `fraction` by the metadata column `score`; `keep`: a cluster gives pairs at
    random, or its best by `score`. `trusted` as in dfn_head; `clusters`, `key`: what is clustered, captions by
    default; `arch`: embeddings that influence is computed from.
    """
    total = _draw.size_of(len(pool), fraction)
    lot = -(-total // pulls)
    lots = -(-total // lot)
    if total < len(pool) and lots <= clusters:
        raise ConfigError(
            f"cluster_bandit: {lots} pulls of {lot} pairs compare none of {clusters} clusters; ask for "
            "more method.pulls, a larger method.fraction or fewer method.clusters"
        )
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key, score=score if "score" in (reward, keep) else None)
    rows = _clusters.probes(places, PROBES, clusters, ctx.rng)
    if reward == "score":
        judge: Judge = _scores.best(places["score"], fraction).__getitem__
    else:
        judge = _by_influence(pool, ctx, trusted, arch, places["row"], np.sort(np.concatenate(rows)))
    sizes = _clusters.sizes(places, clusters)
    quotas, judged = pulled(judge, rows, sizes, total=total, lot=lot, probe=probe, explore=explore)
    ctx.remark(f"{judged} of {len(pool)} pairs judged, {np.count_nonzero(quotas)} of {clusters} clusters drawn from")
    return pool.take(places["row"][_clusters.taken(places, quotas, keep, ctx.rng)])


def _by_influence(
    pool: Pool, ctx: SelectionContext, trusted: str | None, arch: str, pool_rows: Rows, rows: Rows
) -> Judge:
    """Judges the ascending `rows` of `pool_rows` by the sign of their influence on trusted pairs."""
    influence = Influence.on(pool, ctx, trusted, arch)
    img, txt = _pairs.embeddings_at(pool, pool_rows[rows], arch)

    def judge(chosen: Rows) -> Good:
        where = np.searchsorted(rows, chosen)
        return influence.of(img[where], txt[where]) > 0

    return judge


def pulled(
    judge: Judge, rows: Sequence[Rows], sizes: Rows, *, total: int, lot: int, probe: int, explore: float
) -> tuple[Rows, int]:
    """How many pairs each cluster gives (K,), `total` in all, and how many pairs were judged.

    `judge(rows)`: which of these rows are good; `rows`: of each cluster those that may be judged, in their order, at
    least one unless it is empty; `sizes` (K,): pairs of each. A pull judges the next `probe` rows of a cluster, if any
    are left, and takes `lot` pairs from it, or what it still has. Each cluster is pulled once before any is again.
    """
    taken, pulls, good, seen = (np.zeros(len(sizes), dtype=np.int64) for _ in range(4))
    rest = min(total, int(sizes.sum()))
    while rest:
        # A cluster that was never pulled comes first; of equal ones the one that stands first.
        tried = np.maximum(pulls, 1) * probe
        width = np.sqrt(2 * np.log(max(int(tried.sum()), 2)) / tried)
        bound = np.where(pulls > 0, good / np.maximum(seen, 1) + explore * width, np.inf)
        arm = int(np.argmax(np.where(taken < sizes, bound, -np.inf)))
        chosen = rows[arm][seen[arm] : seen[arm] + probe]
        if len(chosen):
            good[arm] += np.count_nonzero(judge(chosen))
            seen[arm] += len(chosen)
        pulls[arm] += 1
        here = min(lot, int(sizes[arm] - taken[arm]), rest)
        taken[arm] += here
        rest -= here
    return taken, int(seen.sum())
