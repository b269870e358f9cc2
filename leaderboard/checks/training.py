"""The recipe was the locked one, and what was fed is what the uid file gives."""

from typing import Any

import numpy as np

from harness.config import Scale, load_scale, scale_names
from harness.errors import ArtifactError, ConfigError
from harness.order import Order, Rows, count
from harness.pool.sealed import SealedPool
from harness.train import ledger as ledgers
from harness.train.recipe import checkpoint_steps
from harness.uid import Uids
from leaderboard import safe
from leaderboard.case import Case, Notes, SkippedError, error


def scale(case: Case) -> Notes:
    """The scale is one of ours, and training recorded the digest of the locked recipe."""
    name = case.scale.name
    if name not in scale_names():
        yield error("seed-*/config.json", f"scale {name[:40]!r} is not one of {', '.join(scale_names())}")
        return
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
        elif [item.get("step") for item in kept] != checkpoint_steps(case.scale):
            yield error(where, f"checkpoints are not at the steps {checkpoint_steps(case.scale)}")
        elif kept[-1].get("sha256") != run.train.payload.get("checkpoint"):
            yield error(where, "the last checkpoint is not the one that was evaluated")


def ledger(case: Case) -> Notes:
    """The digests of all batches are those that the uid file, the pool and the seed give."""
    sealed = pool_of(case)
    uids = safe.load_uids(case.locate("uids.npy"))
    counts = None
    for run in case.runs:
        where, payload = f"{run.folder}/train/ledger.json", run.ledger.payload
        stated = payload.get("batches")
        if not isinstance(stated, list) or not all(isinstance(item, str) for item in stated):
            yield error(where, "batches is not a list of digests")
            continue
        try:
            holdout = run.config.payload.get("holdout") or 0
            counts = pool_counts(sealed, uids) if counts is None else counts
            name = run.config.payload.get("order")
            order = _Counted(sealed, uids, counts, seed=run.seed, scale=case.scale, holdout=holdout, order=name)
            for difference in ledgers.differences(payload, order):
                yield error(where, difference)
        except (ConfigError, ArtifactError) as problem:
            yield error(where, str(problem))


def pool_of(case: Case) -> SealedPool:
    """The sealed pool that the entry names: the maintainer's own, or what was brought of the participant's."""
    wanted = case.payload.pool.digest
    own = case.means.pool
    if own is not None and own.digest == wanted:
        return own
    if case.means.files is None:
        raise SkippedError(
            "the pool's uid list is not at hand; bring the sealed pool with --pool or pool/ with --files"
        )
    for name in ("uids.npy", "shards.npy"):
        safe.check_npy(case.locate(f"pool/{name}"))
    sealed = SealedPool.open(str(case.locate("pool/uids.npy").parent))
    if sealed.digest != wanted:
        raise ArtifactError(f"pool/pool.json: digest {sealed.digest[:12]}… is not that of the entry's pool")
    return sealed


def pool_counts(sealed: SealedPool, uids: Uids) -> Rows:
    """How often (N,) each sample of the pool stands in the subset."""
    step = 1 << 20
    parts = [count(uids, np.asarray(sealed.uids[at : at + step])) for at in range(0, len(sealed.uids), step)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class _Counted(Order):
    """The order of a run, with the counts of the whole pool held: several seeds and epochs ask for them."""

    def __init__(
        self, sealed: SealedPool, uids: Uids, counts: Rows, *, seed: int, scale: Scale, holdout: int, order: Any
    ) -> None:
        self._held = counts
        super().__init__(
            sealed.uids, sealed.borders, uids, seed=seed, batch_size=scale.batch_size, samples_seen=scale.samples_seen,
            order=order, exclude=sealed.holdout(holdout),
        )  # fmt: skip

    def _counts(self, first: int, end: int) -> Rows:
        counts = self._held[first:end].copy()
        left, right = np.searchsorted(self._exclude, [first, end])
        counts[self._exclude[left:right] - first] = 0
        return counts
