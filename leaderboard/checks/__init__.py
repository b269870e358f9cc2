"""The checks, one function each: a Case in, notes out. A check raises ArtifactError where the entry is unreadable."""

from collections.abc import Callable

from leaderboard.case import Case, Notes
from leaderboard.checks import chain, copies, folder, rescored, retrained, scores, subset, training
from leaderboard.findings import Level

Check = Callable[[Case], Notes]

FIRST: dict[str, Check] = {"files": folder.files, "digests": folder.digests, "records": folder.records}
"""Where one of these finds an error, nothing that the entry says can be relied on and the others are not made."""

LADDER: dict[Level, dict[str, Check]] = {
    "claimed": {
        "protocol": chain.protocol,
        "seeds": chain.seeds,
        "chain": chain.inputs,
        "sources": chain.sources,
        "addresses": folder.addresses,
        "summary": chain.summary,
        "scale": training.scale,
        "samples seen": training.samples,
        "checkpoints": training.checkpoints,
        "uid file": subset.uids,
        "in the pool": subset.membership,
        "weights": subset.sources,
        "realised pool": subset.realised,
        "ledger": training.ledger,
        "tasks": scores.tasks,
        "counts": scores.counts,
        "scores": scores.values,
        "aggregates": scores.aggregates,
        "intervals": scores.intervals,
        "plausible": scores.bounds,
        "repeated runs": scores.repeated,
        "copies": copies.copied,
    },
    "rescored": {
        "predictions": rescored.rescore,
        "resampling": rescored.resampled,
        "evaluated again": rescored.reevaluate,
    },
    "retrained": {"trained again": retrained.retrain},
}
"""The checks of each level by the name that findings bear; a level includes those below it."""
