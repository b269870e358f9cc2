"""One score from many: a weighted sum of columns and of what other methods think, by rank or by value.

No single score is right about everything, and filters that lean on different signals add up; SIEVE and others fuse
columns of CommonPool with weights in this way. Cost: that of its parts; a number a pair and part.
"""

import inspect
import sys
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import AfterValidator, Field

from baselines import _pairs, _scores
from baselines._scores import Fraction, Scores, Temperature
from harness import ConfigError, MethodError, Pool, SelectionContext, uid
from harness.config import MethodConfig
from harness.pool.view import CHUNK
from harness.selection import combine, plugins
from harness.selection.plugins import BoundPart, Method
from harness.selection.run import call
from harness.uid import Uids


def _scorer(config: MethodConfig) -> Method | None:
    """The function `scores` beside a method's `select`, if its module has one."""
    method = plugins.resolve(config)
    found = getattr(sys.modules[method.module], "scores", None)
    return replace(method, function=found) if callable(found) else None


def _bound(term: str | dict[str, Any]) -> dict[str, Any]:
    """A term with its weight and all parameters that count; ConfigError for what does not exist or does not fit."""
    given = {"name": term} if isinstance(term, str) else dict(term)
    weight = given.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight) or not weight:
        raise ConfigError(f"setting method.of: weight {weight!r} is not a number other than 0")
    if "column" in given:
        if list(given) != ["column"]:
            raise ConfigError(f"setting method.of: {term!r} is a column and takes nothing but a weight beside it")
        return {"column": str(given["column"]), "weight": float(weight)}
    if "name" not in given:
        raise ConfigError(
            f"setting method.of: {term!r} is neither a method's name nor {{name: …, parameter: …}} nor {{column: …}}"
        )
    part = combine.bound(given)
    scorer = _scorer(part.config)
    if scorer is not None:
        counts = {"name", "target", *inspect.signature(scorer.function).parameters}
        idle = sorted(set(given) - counts)
        if idle:
            raise ConfigError(
                f"setting method.of: {part['name']} gives its scores here, where {idle[0]} has no effect; leave it out"
            )
        part = BoundPart({key: value for key, value in part.items() if key in counts})
    return BoundPart(part | {"weight": float(weight)})


Term = Annotated[str | dict[str, Any], AfterValidator(_bound)]
"""A method's name; or {column: NAME, weight: W}; or {name: METHOD, weight: W, parameter: …}."""
By = Literal["rank", "deviation", "value"]


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    of: Annotated[list[Term], Field(min_length=1)] | None = None,
    by: By = "rank",
    fraction: Fraction = 0.3,
    temperature: Temperature = 0.0,
) -> Uids:
    """Keep the best fraction by the weighted sum of the terms in `of`; by default both CLIP scores.

    A term is {column: NAME}, {name: METHOD} with its parameters, or a method's name; `weight` is 1 unless given, and
    negative where less is better. A method whose module has a function `scores` gives those, any other 1 for what it
    keeps and 0 for the rest. `by`: what is summed, each pair's rank in (0, 1] (ties share the mean), its deviation from
    the mean in standard deviations, or the value itself. A pair that lacks one score has no sum. Size and
    `temperature` as in score_sampling.
    """
    return _scores.kept(pool, ctx, scores(pool, ctx=ctx, of=of, by=by), fraction, temperature)


def scores(
    pool: Pool, /, *, ctx: SelectionContext, of: Annotated[list[Term], Field(min_length=1)] | None = None,
    by: By = "rank",
) -> Scores:  # fmt: skip
    """The weighted sum."""
    terms = of or [{"column": f"clip_{arch}_similarity_score", "weight": 1.0} for arch in ("l14", "b32")]
    total = np.zeros(len(pool), dtype=np.float64)
    for number, term in enumerate(terms):
        assert isinstance(term, dict)
        found = _found(pool, ctx, BoundPart({key: value for key, value in term.items() if key != "weight"}), number)
        if len(found) and np.isnan(found).all():
            what = " ".join(str(term[key]) for key in ("column", "name", "target") if key in term)
            raise ConfigError(f"setting method.of: no pair has a score by {what}; leave that term out")
        total += term["weight"] * alike(found, by)
    return total.astype(np.float32)


def alike(found: Scores, by: By) -> npt.NDArray[np.floating[Any]]:
    """The scores (N,) in a measure that different scores share; NaN stays NaN."""
    if by == "value":
        return found
    if by == "deviation":
        return _scores.standardised(found)
    from scipy import stats

    known = ~np.isnan(found)
    ranks = np.full(len(found), np.nan)
    ranks[known] = stats.rankdata(found[known]) / max(int(known.sum()), 1)
    return ranks


def _found(pool: Pool, ctx: SelectionContext, term: BoundPart, number: int) -> Scores:
    if "column" in term:
        return _scores.column(pool, term["column"])
    # Terms of one method would find each other's files in one scratch folder.
    own = replace(ctx, scratch=ctx.scratch / f"term-{number}")
    own.scratch.mkdir(exist_ok=True)
    scorer = _scorer(term.config)
    if scorer is not None:
        given = np.asarray(call(scorer, pool, own, term.config.params))
        if given.shape != (len(pool),) or given.dtype.kind not in "fiub":
            raise MethodError(
                f"{scorer.name}: its function scores gave an array of shape {given.shape} and dtype {given.dtype}, not "
                f"one number for each of the pool's {len(pool)} pairs"
            )
        return given
    # Uids travel to the workers as a file that all of them map.
    path = own.scratch / "uids.npy"
    combine.subsets([term], pool, own)[0].save(path)
    parts = pool.map(partial(_members, str(path)), columns=["uid"], rows=CHUNK, name=f"kept by {term['name']}")
    return np.concatenate(parts)


def _members(path: str, table: pa.Table) -> Scores:
    return (uid.find(uid.load(path), _pairs.uids_of(table)) >= 0).astype(np.float32)
