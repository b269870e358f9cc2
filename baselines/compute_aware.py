"""The best buckets by score, as many as the compute can use (Goyal et al. 2024, Scaling Laws for Data Filtering).

The error falls as a power of the samples seen. The power is the data's utility, and it halves after half_life repeats:
a small good pool is exhausted, a large one of lower utility is not. For several buckets together the paper's rule holds:
the utility is the mean over the pairs, and a bucket that is one p-th of them has p times its half-life. So the subset
is small where few samples are seen, and grows with `samples_seen`.

Cost: one pass over one column; 12 bytes a row in memory. Fitting utilities takes training runs (`fit`).
"""

import json
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness import ArtifactError, ConfigError, Pool, SelectionContext
from harness.config import validated
from harness.files import open_file
from harness.records import StrictModel
from harness.uid import Uids


class Fit(StrictModel):
    """What small runs have told about the buckets, the best one first.

    The defaults are those that the paper's code publishes for the best four tenths of medium by T-MARS score, scored on
    ImageNet. Other scores and scales have others.
    """

    utility: list[Annotated[float, Field(gt=0)]] = Field(default=[0.16, 0.125, 0.1, 0.085], min_length=1)
    """Power with which the error falls on fresh pairs of each bucket."""
    half_life: list[Annotated[float, Field(gt=0)]] = Field(default=[6.73, 8.55, 5.27, 2.27], min_length=1)
    """Repeats after which the utility of each bucket has halved."""
    origin: float = Field(default=1 / 32, gt=0)
    """Samples seen, as a part of the pool, at which all buckets are equally good (the paper: 4 of 128 million).

    At most one bucket, and at most the samples seen."""


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    score: str = "clip_l14_similarity_score",
    bucket: Annotated[float, Field(gt=0, le=1)] = 0.1,
    fit: str | None = None,
    utility: list[Annotated[float, Field(gt=0)]] | None = None,
    half_life: list[Annotated[float, Field(gt=0)]] | None = None,
) -> Uids:
    """Keep the buckets that promise the lowest error after the scale's samples seen; each is int(bucket * pool) pairs.

    `score`: the metadata column that ranks pairs (NaN last, ties in pool order); the size is a multiple of the bucket,
    at most the number of utilities of them. `fit`: a JSON file {"utility": […], "half_life": […], "origin": x};
    `utility`, `half_life`: the same as settings, one number for each bucket, the best bucket first.
    """
    known = fit_of(fit, utility, half_life)
    values = np.concatenate([np.empty(0, np.float32), *pool.map(partial(_values, score), columns=[score], name=score)])
    size = max(1, int(len(values) * bucket))
    buckets = min(len(known.utility), len(values) // size)
    # The law says nothing of what comes before its origin.
    origin = min(known.origin * len(values), size, ctx.samples_seen)
    chosen = best_buckets(known, np.full(buckets, size), ctx.samples_seen, origin)
    ctx.remark(f"{len(chosen)} of {buckets} buckets of {size} pairs for {ctx.samples_seen} samples seen")
    order = np.argsort(-values, kind="stable")
    return pool.take(np.sort(np.concatenate([order[i * size : (i + 1) * size] for i in chosen])))


def fit_of(path: str | None, utility: list[float] | None, half_life: list[float] | None) -> Fit:
    """The file's fit or the default one, with `utility` and `half_life` in place of its own where they are given."""
    values: dict[str, Any] = {}
    if path is not None:
        with open_file(path) as file:
            try:
                values = json.load(file)
            except ValueError as error:
                raise ArtifactError(f"{path}: not a JSON file: {error}") from error
        if not isinstance(values, dict):
            raise ArtifactError(f"{path}: not a JSON object with utility, half_life and origin")
    given = {"utility": utility, "half_life": half_life}
    values |= {name: value for name, value in given.items() if value is not None}
    found = validated(Fit, values, prefix=f"of {path}, " if path else "method.")
    if len(found.utility) != len(found.half_life):
        raise ConfigError(
            f"method compute_aware: {len(found.utility)} utilities and {len(found.half_life)} half-lives; "
            "give one of each for every bucket"
        )
    return found


def best_buckets(fit: Fit, sizes: npt.NDArray[np.int64], samples: int, origin: float) -> list[int]:
    """The buckets to train on, ascending: greedily that which raises `promise` most, until none does."""
    chosen: list[int] = []
    reached = -np.inf
    while len(chosen) < len(sizes):
        rest = [i for i in range(len(sizes)) if i not in chosen]
        promises = [promise(fit, sizes, [*chosen, i], samples, origin) for i in rest]
        best = int(np.argmax(promises))
        if promises[best] <= reached:
            break
        chosen.append(rest[best])
        reached = promises[best]
    return sorted(chosen)


def promise(fit: Fit, sizes: npt.NDArray[np.int64], chosen: list[int], samples: int, origin: float) -> float:
    """-log of the part of the error that training on the `chosen` buckets can remove, up to a constant.

    `sizes` (K,): pairs of every bucket; `samples`: seen in training, repeats counted; `origin`: see Fit, in samples.
    """
    pairs = sizes[chosen].sum()
    share = sizes[chosen] / pairs
    utility, half_life = np.array(fit.utility)[chosen], np.array(fit.half_life)[chosen] / share
    repeats = np.arange(-(-samples // pairs))
    seen = np.minimum((repeats + 1.0) * pairs, samples)
    growth = np.log(seen / np.concatenate([[origin], seen[:-1]]))
    decayed = (share * utility) @ 0.5 ** (repeats / half_life[:, None])
    return float(decayed @ growth)


def _values(column: str, table: Any) -> npt.NDArray[np.float32]:
    return np.asarray(table[column].to_numpy(), dtype=np.float32)
