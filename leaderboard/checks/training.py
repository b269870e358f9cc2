"""The recipe was the locked one, and what was fed is what the uid file gives."""

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.config import Scale, load_scale, model_names, scale_names
from harness.errors import ArtifactError, ConfigError
from harness.order import MOST_PASSES, Order, Rows
from harness.pool.sealed import SealedPool
from harness.train import ledger as ledgers
from harness.train.recipe import checkpoint_steps
from harness.uid import Uids, is_sorted
from leaderboard.case import Case, Notes, error

MOST_CHECKPOINTS = 1000
"""A changed recipe may ask for more than anyone keeps; their steps are not worked out."""

MOST_SAMPLES = 10
"""A changed recipe may see so many times its scale's samples; more are not worked out."""
MOST_BATCH = 1 << 20
"""Nor is a larger batch, which is held whole."""
MOST_HOLDOUT = 1 << 20
"""Nor are more pairs held out, which are sorted in memory."""


def scale(case: Case) -> Notes:
    """Scale and model are known ones, and training recorded the digest of the locked recipe."""
    name = case.scale.name
    if name not in scale_names():
        yield error("seed-*/config.json", f"scale {name[:40]!r} is not one of {', '.join(scale_names())}")
        return
    if case.scale.model not in model_names():
        what = f"model {case.scale.model[:60]!r} is neither one of open_clip's own nor a file of configs/model/"
        yield error("seed-*/config.json", what)
    for run in case.runs:
        if run.train.payload.get("scale") != case.scale.digest:
            yield error(f"{run.folder}/train/train.json", "scale digest is not that of the recipe in config.json")
    if not case.payload.unofficial and case.scale != load_scale(name):
        yield error("seed-*/config.json", f"the recipe is not the locked one of scale {name}")


def samples(case: Case) -> Notes:
    """Exactly the scale's number of samples was seen, in its number of steps."""
    wanted, steps = case.scale.samples_seen, case.scale.steps
    for run, summary in zip(case.runs, case.payload.runs, strict=True):
        for where, what, stated, true in (
            (f"{run.folder}/train/train.json", "samples_seen", run.train.payload.get("samples_seen"), wanted),
            (f"{run.folder}/train/train.json", "steps", run.train.payload.get("steps"), steps),
            (f"{run.folder}/train/ledger.json", "samples_seen", run.ledger.payload.get("samples_seen"), wanted),
            (
                f"{run.folder}/train/ledger.json",
                "batch_size",
                run.ledger.payload.get("batch_size"),
                case.scale.batch_size,
            ),
            ("entry.json", f"samples_seen of seed {run.seed}", summary.samples_seen, wanted),
        ):
            if stated != true:
                yield error(where, f"{what} is {str(stated)[:40]}, the scale's is {true}")


def checkpoints(case: Case) -> Notes:
    """Checkpoints were kept at the steps that the recipe names, and the last is the one that was evaluated."""
    for run in case.runs:
        kept = run.train.payload.get("checkpoints")
        where = f"{run.folder}/train/train.json"
        if not isinstance(kept, list) or not all(isinstance(item, dict) for item in kept):
            yield error(where, "checkpoints is not a list of objects")
        elif len(kept) > case.scale.checkpoints or case.scale.checkpoints > MOST_CHECKPOINTS:
            yield error(where, f"{len(kept):,} checkpoints, the recipe keeps {case.scale.checkpoints:,}")
        elif [item.get("step") for item in kept] != checkpoint_steps(case.scale):
            yield error(where, f"checkpoints are not at the steps {checkpoint_steps(case.scale)}")
        elif kept[-1].get("sha256") != run.train.payload.get("checkpoint"):
            yield error(where, "the last checkpoint is not the one that was evaluated")


def ledger(case: Case) -> Notes:
    """The digests of all batches are those that the uid file, the pool and the seed give."""
    sealed, uids = case.sealed, case.uids
    if not is_sorted(uids):
        return  # the check of the uid file says so; no order can be worked out
    for run in case.runs:
        where, payload = f"{run.folder}/train/ledger.json", run.ledger.payload
        stated = payload.get("batches")
        if not isinstance(stated, list) or not all(isinstance(item, str) for item in stated):
            yield error(where, "batches is not a list of digests")
            continue
        try:
            holdout = run.config.payload.get("holdout") or 0
            name = run.config.payload.get("order")
            order = _Counted(sealed, uids, case.counts, seed=run.seed, scale=case.scale, holdout=holdout, order=name)
            for difference in ledgers.differences(payload, list(order.ledger())):
                yield error(where, difference)
        except (ConfigError, ArtifactError) as problem:
            yield error(where, str(problem))


def _bounded(what: str, value: int, most: int) -> None:
    """ArtifactError if an order would take for ever to work out because a record says so."""
    if value > most:
        raise ArtifactError(f"{what} is {value:.4g}, more than {most:,}, which no ledger is recomputed for")


class _Counted(Order):
    """The order of a run, with the counts of the whole pool held: several seeds and epochs ask for them."""

    def __init__(
        self,
        sealed: SealedPool,
        uids: Uids,
        counts: npt.NDArray[np.int32],
        *,
        seed: int,
        scale: Scale,
        holdout: int,
        order: Any,
    ) -> None:
        self._held = counts
        _bounded("samples_seen", scale.samples_seen, MOST_SAMPLES * load_scale(scale.name).samples_seen)
        _bounded("batch_size", scale.batch_size, MOST_BATCH)
        _bounded("holdout", holdout, MOST_HOLDOUT)
        super().__init__(
            sealed.uids, sealed.borders, uids, seed=seed, batch_size=scale.batch_size, samples_seen=scale.samples_seen,
            order=order, exclude=sealed.holdout(holdout),
        )  # fmt: skip
        _bounded("the number of epochs", self.samples_seen // self.size, MOST_PASSES)

    def _counts(self, first: int, end: int) -> Rows:
        counts = self._held[first:end].astype(np.int64)
        left, right = np.searchsorted(self._exclude, [first, end])
        counts[self._exclude[left:right] - first] = 0
        return counts
