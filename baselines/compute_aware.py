"""The best buckets by score, as many as the compute can use (Goyal et al. 2024, Scaling Laws for Data Filtering).

A small good pool is exhausted after some repeats; a larger one of lower utility is not (the law: baselines/_utility).
So the subset is small where few samples are seen, and grows with `samples_seen`.

Cost: one pass over one column; about 20 bytes a row in memory. Utilities of one's own take training runs (`runs`).
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from baselines import _given, _scores
from baselines._utility import Fit, Positive, Runs, best_buckets, fitted
from harness import ConfigError, Pool, SelectionContext
from harness.config import validated
from harness.uid import Uids

TENTH = 0.1


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    score: str = "clip_l14_similarity_score",
    bucket: Annotated[float, Field(gt=0, le=1)] = TENTH,
    utility: list[Positive] | None = None,
    half_life: list[Positive] | None = None,
    fit: str | None = None,
    runs: str | None = None,
    only: list[Annotated[int, Field(ge=0)]] | None = None,
) -> Uids:
    """Keep the buckets that promise the lowest error after the scale's samples; each is int(`bucket` * pool) pairs.

    `score`: the metadata column that ranks pairs (ties in pool order; a pair without a number is in no bucket). There
    are at most as many buckets as utilities. By default these are the paper's, for four tenths, and no other `bucket`
    goes with them. `utility` and `half_life` (in repeats): others, one number for each bucket, the best bucket first;
    `fit`: a JSON file with {"utility": […], "half_life": […], "origin": x}. `runs`: a JSON file {"runs": [{"bucket": 0,
    "pairs": n, "samples": n, "error": x}, …], "floor": x} that they are fitted from; for such runs `only` takes the
    buckets it names, whatever they promise.
    """
    if bucket != TENTH and only is None and not (fit or runs or utility):
        raise ConfigError(
            f"setting method.bucket: the paper's law is of tenths, not of {bucket}; give method.fit, method.runs or "
            "method.utility with it"
        )
    known = known_law(fit, runs, utility, half_life, len(pool))
    values = _scores.column(pool, score)
    size = max(1, int(len(values) * bucket))
    buckets = int(np.count_nonzero(~np.isnan(values))) // size
    if not buckets:
        raise ConfigError(f"method compute_aware: fewer pairs than a bucket of {size} have a number in {score}")
    if runs is not None:
        _require_size(runs, size)
    if only is None:
        sizes = np.full(min(len(known.utility), buckets), size)
        # The law says nothing of what comes before its origin.
        origin = min(known.origin * len(values), size, ctx.samples_seen)
        chosen = best_buckets(known, sizes, ctx.samples_seen, origin)
        ctx.remark(f"{len(chosen)} of {len(sizes)} buckets of {size} pairs for {ctx.samples_seen} samples seen")
    else:
        chosen = sorted(set(only))
        if not chosen or chosen[-1] >= buckets:
            raise ConfigError(f"method compute_aware, parameter only={only}: there are {buckets} buckets")
    order = np.argsort(-values, kind="stable")
    return pool.take(np.sort(np.concatenate([order[i * size : (i + 1) * size] for i in chosen])))


def _require_size(runs: str, size: int) -> None:
    """ConfigError unless the runs were made on buckets of `size` pairs."""
    for run in _given.read(Runs, runs).runs:
        if run.pairs != size:
            raise ConfigError(
                f"{runs}: a run on {run.pairs} pairs, but buckets have {size} here (method.bucket of this pool); "
                "a law fitted elsewhere is given as method.fit"
            )


def known_law(
    fit: str | None, runs: str | None, utility: list[float] | None, half_life: list[float] | None, pool_size: int
) -> Fit:
    """The law of the one source that is given, the paper's if there is none; ConfigError if they do not go together."""
    if sum(source is not None for source in (fit, runs, utility or half_life)) > 1:
        raise ConfigError("compute_aware: give one of method.fit, method.runs, and method.utility with half_life")
    if runs is not None:
        return fitted(_given.read(Runs, runs), pool_size)
    if fit is not None:
        law = _given.read(Fit, fit)
    else:
        given = {"utility": utility, "half_life": half_life}
        law = validated(Fit, {name: values for name, values in given.items() if values is not None}, prefix="method.")
    if len(law.utility) != len(law.half_life):
        raise ConfigError(
            f"compute_aware: {len(law.utility)} utilities and {len(law.half_life)} half-lives; "
            "give one of each for every bucket"
        )
    return law
