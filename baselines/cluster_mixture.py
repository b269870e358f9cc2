"""The mixture of clusters that small training runs promise most of (CLIMB).

Diao et al., CLIMB: CLustering-based Iterative Data Mixture Bootstrapping for Language Model Pre-training, 2025: embed
and cluster the pool, train small models on mixtures of the clusters drawn at random, let a predictor learn the score
from the mixture, and train the next ones on the mixtures that it likes best; after some rounds its favourite is the
result. The training is not done here: `candidate` chooses the subset that one small run is trained on, and `runs` tells
what came of such runs. The paper's predictor is boosted trees; here it is ridge regression, which needs no more than
some runs a cluster and takes the score for a weighted mean over the clusters.
Cost: k-means and one pass over the embeddings, as prototypes, and about 60 bytes a row in memory, for each candidate
and for the result; and the training of the candidates, which outweighs it by far.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from baselines import _clusters, _draw, _given
from baselines._mixtures import Floats, Runs, next_round
from harness import ConfigError, Pool, SelectionContext
from harness.uid import Uids


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3,
    candidate: Annotated[int, Field(ge=0)] | None = None,
    runs: str | None = None,
    candidates: Annotated[int, Field(ge=3)] = 1000,
    concentration: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0,
    clusters: _clusters.Clusters = 20,
    key: _clusters.Features = "l14_txt",
) -> Uids:
    """Keep int(fraction * pool) pairs at random from each cluster, in the mixture that `runs` promise most of.

    `candidate`: a mixture to train a small run on, whatever it promises: in the first round the candidate-th drawn,
    later the candidate-th best by `runs`. `runs`: a JSON file {"rounds": [[{"candidate": 0, "score": x}, …], …]} with
    the runs of all rounds so far, three or more in each; "mixture": […] beside a score, as the run's record has it, is
    compared with what the candidate is here. Rounds draw `candidates` mixtures from a Dirichlet distribution around the
    pool's own, the narrower the larger `concentration` (the sum of its parameters); no cluster gives more than it has.
    All runs and the result need the same pool, `method.seed` and other parameters. `clusters`, `key`: what is
    clustered, captions by default.
    """
    if candidate is None and runs is None:
        raise ConfigError(
            "cluster_mixture: give method.runs=FILE with the scores of runs, or method.candidate=N, the subset of one"
        )
    if candidate is not None and candidate >= candidates:
        raise ConfigError(f"method cluster_mixture, parameter candidate={candidate}: there are {candidates}")
    rounds = [] if runs is None else _given.read(Runs, runs).rounds
    path = _clusters.centroids_of(pool, ctx, key=key, clusters=clusters)
    places = _clusters.places(pool, ctx, path, key=key)
    sizes = _clusters.sizes(places, clusters)
    total = _draw.size_of(len(pool), fraction)

    def drawn() -> Floats:
        """(candidates, clusters) shares of mixtures, none above what the cluster has."""
        parts = ctx.rng.dirichlet(concentration * np.maximum(sizes / sizes.sum(), 1e-9), size=candidates)
        # No weight is 0, so that a cluster can fill up what all others lack.
        return np.stack([_draw.allotted(np.maximum(part, 1e-12), sizes, total) for part in parts]) / total

    mixture = next_round(drawn, rounds)[candidate or 0]
    shown = ", ".join(f"{share:.3f}" for share in mixture)
    ctx.remark(f"mixture after {sum(map(len, rounds))} runs in {len(rounds)} rounds: {shown}")
    quotas = np.rint(mixture * total).astype(np.int64)
    return pool.take(places["row"][_clusters.taken(places, quotas, "random", ctx.rng)])
