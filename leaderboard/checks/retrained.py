"""Trained again from the uid file, with another seed, on our own machine."""

from pathlib import Path

import numpy as np

from harness import uid
from harness.pool.sealed import SealedPool
from harness.records import read_record
from leaderboard.case import Case, Notes, SkippedError, error, warning
from leaderboard.checks.rescored import run_harness
from leaderboard.statistics import ASSUMED_SPREAD

SEED_SPREAD = {"tiny": ASSUMED_SPREAD}
"""Standard deviation of the average between seeds of one uid file, by scale; add others as reference runs come."""
PUBLISHED_SPREAD = 0.006
"""What the benchmark's authors state for their scales."""
STANDARD_ERRORS = 3.0


def retrain(case: Case) -> Notes:
    """The average of a training with a seed of ours lies within the noise of seeds around the entry's mean."""
    work, seed = case.means.work, case.means.seed
    if work is None or seed is None:
        raise SkippedError("training again needs --work DIR and --seed N (one that the entry does not have)")
    if seed in {run.seed for run in case.runs}:
        raise SkippedError(f"seed {seed} is one of the entry's; give another with --seed")
    if case.payload.unofficial:
        raise SkippedError(
            f"training again follows the protocol, the entry changed {', '.join(case.payload.unofficial)}"
        )
    if case.sources:
        raise SkippedError("training again is done on the pool alone; run a byod entry's settings on its folders")
    if case.means.pool is None:
        raise SkippedError("training again needs the pool; give --pool DIR")
    uids, ours = Path(work) / "uids.npy", np.asarray(case.uids)
    there = uid.find(case.means.pool.sorted_uids(), ours) >= 0
    if not there.all():
        yield warning("uids.npy", f"{int((~there).sum()):,} uids are not in the pool here; trained without them")
    uid.save(uids, ours[there])
    settings = training(case, case.means.pool, uids, seed)
    run_harness("harness.run", settings, theirs=uids)
    evaluation = read_record(Path(settings["run_dir"]) / "eval" / "evaluation.json", "evaluation")
    again = evaluation.payload["aggregates"]["average"]
    stated = case.payload.aggregates["average"].mean
    if stated is None:
        raise SkippedError("the entry is incomplete, so it has no average to compare")
    allowed = STANDARD_ERRORS * SEED_SPREAD.get(case.scale.name, PUBLISHED_SPREAD) * (1 + 1 / len(case.runs)) ** 0.5
    if abs(again - stated) > allowed:
        yield error(
            "entry.json", f"average {stated:.4f} stated, {again:.4f} when trained again with seed {seed}; "
            f"runs of one uid file differ by up to {allowed:.4f}"
        )  # fmt: skip


def training(case: Case, pool: SealedPool, uids: Path, seed: int) -> dict[str, str]:
    """Settings of harness.run that train on the uid file `uids` with `seed`, in a folder beside it."""
    settings = {
        "scale": case.scale.name,
        "subset": str(uids),
        "seed": str(seed),
        "run_dir": str(uids.parent / f"seed-{seed}"),
    }
    if case.scale.name != "tiny":
        settings |= {"pool.path": pool.path, "pool.seal_dir": pool.seal_dir}
    if case.means.data_dir is not None:
        settings["eval.data_dir"] = str(case.means.data_dir)
    return settings
