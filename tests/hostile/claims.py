"""Entries whose files are sound and do not fit together: what was trained, fed and scored is not what they say."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hostile.forger import FIRST_TASK, WEIGHTS, Forger, put_model, put_recipe, put_uids

from harness import uid
from harness.order import chain
from harness.uid import UID_DTYPE


def cherry_picked_tasks(forger: Forger) -> None:
    def drop(payload: dict[str, Any]) -> None:
        payload["tasks"] = [task for task in payload["tasks"] if task["key"] != "mnist"]

    forger.payload(drop)


def dropped_result(forger: Forger) -> None:
    """Leave a bad task out everywhere and say that the rest is all."""
    for place in forger.folder.glob("seed-*/eval/mnist.json"):
        place.unlink()
    cherry_picked_tasks(forger)
    forger.edit("entry.json", lambda r: r.update(inputs={k: v for k, v in r["inputs"].items() if "mnist" not in k}))
    for place in forger.folder.glob("seed-*/eval/predictions/mnist.parquet"):
        place.unlink()
    forger.mend()


def hidden_seed(forger: Forger) -> None:
    """Keep the best seed in the mean and say nothing of another whose files are there."""
    forger.payload(lambda p: p["runs"].pop())


def twice_the_same_task(forger: Forger) -> None:
    forger.payload(lambda p: p["tasks"].append(p["tasks"][0]))


def edited_aggregate(forger: Forger) -> None:
    forger.payload(lambda p: p["aggregates"]["average"].update(mean=p["aggregates"]["average"]["mean"] + 0.03))


def edited_evaluation(forger: Forger) -> None:
    forger.edit("seed-0/eval/evaluation.json", lambda r: r["payload"]["aggregates"].update(average=0.9))
    forger.mend()


def edited_score(forger: Forger) -> None:
    """A better score, carried through every record."""

    def better(record: dict[str, Any]) -> None:
        record["payload"]["score"] = record["payload"]["metrics"]["acc1"] = 0.95

    forger.edit(FIRST_TASK, better)
    forger.edit("seed-0/eval/evaluation.json", lambda r: r["payload"]["scores"].update(cifar10=0.95))
    forger.mend()


def score_above_one(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(score=38.0))
    forger.mend()


def fewer_samples(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(samples=10))
    forger.mend()


def other_task_version(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["inputs"].update(task="1" * 64))
    forger.mend()


def unsorted_uids(forger: Forger) -> None:
    found = np.load(forger.folder / "uids.npy")
    uid.save(forger.folder / "uids.npy", found[::-1].copy())
    forger.mend()


def foreign_uids(forger: Forger) -> None:
    found = np.load(forger.folder / "uids.npy").copy()
    found[-1] = np.array((1 << 64) - 1, dtype="u8").repeat(2).view(UID_DTYPE)[0]
    put_uids(forger, found)


def dropped_uids(forger: Forger) -> None:
    """Another subset than was trained on, every digest mended: only the ledger knows."""
    put_uids(forger, np.load(forger.folder / "uids.npy")[1:].copy())


def empty_uids(forger: Forger) -> None:
    put_uids(forger, np.empty(0, dtype=UID_DTYPE))


def edited_ledger(forger: Forger) -> None:
    forger.edit("seed-0/train/ledger.json", lambda r: r["payload"]["batches"].__setitem__(3, "0" * 8))
    forger.mend()


def other_ledger_digest(forger: Forger) -> None:
    digest = chain(["0" * 64])
    forger.edit("seed-0/train/ledger.json", lambda r: r["payload"].update(digest=digest))
    forger.edit("seed-0/train/train.json", lambda r: r["payload"].update(ledger=digest))
    forger.payload(lambda p: p["runs"][0].update(ledger=digest))
    forger.mend()


def more_samples(forger: Forger) -> None:
    forger.edit("seed-0/train/train.json", lambda r: r["payload"].update(samples_seen=10**9))
    forger.mend()


def secret_recipe(forger: Forger) -> None:
    """A higher learning rate, and the list of what is unofficial left empty."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(lr=1.0))
    forger.mend()


def secret_precision(forger: Forger) -> None:
    """Evaluated in bfloat16, as all records say, and the list of what is unofficial left empty."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"].update(eval_precision="amp_bfloat16"))
        for record in (forger.folder / f"seed-{seed}/eval").glob("*.json"):
            place = record.relative_to(forger.folder).as_posix()
            forger.edit(place, lambda r: r["payload"].update(precision="amp_bfloat16"))
    forger.mend()


def results_of_another_precision(forger: Forger) -> None:
    forger.edit(FIRST_TASK, lambda r: r["payload"].update(precision="amp_bfloat16"))
    forger.mend()


def same_run_twice(forger: Forger) -> None:
    weights = forger.read()["inputs"][WEIGHTS]
    forger.edit("seed-1/train/train.json", lambda r: r["payload"].update(checkpoint=weights))
    forger.payload(lambda p: p["runs"][1].update(checkpoint=weights))
    forger.mend()


def broken_chain(forger: Forger) -> None:
    forger.edit("seed-0/eval/evaluation.json", lambda r: r["inputs"].update(checkpoint="2" * 64))
    forger.mend()


def other_protocol(forger: Forger) -> None:
    forger.edit("entry.json", lambda record: record.update(protocol="v0"))


def certain_replicates(forger: Forger) -> None:
    """Replicates far from what was measured, to look better than one is."""
    np.save(forger.folder / "bootstrap.npy", np.full((2, 5, 1000), 0.9, dtype=np.float32))
    forger.mend()


def fewer_replicates(forger: Forger) -> None:
    """Fewer than everybody else has: a table would have to be cut to them."""
    np.save(forger.folder / "bootstrap.npy", np.load(forger.folder / "bootstrap.npy")[:, :, :100])
    forger.mend()


def replicates_of_nan(forger: Forger) -> None:
    np.save(forger.folder / "bootstrap.npy", np.full((2, 5, 1000), np.nan, dtype=np.float32))
    forger.mend()


def endless_checkpoints(forger: Forger) -> None:
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(checkpoints=10**12))
    forger.mend()


def endless_samples(forger: Forger) -> None:
    """One batch that passes over the subset for ever."""
    put_recipe(forger, batches=1, samples_seen=10**15, batch_size=10**15)


def endless_batches(forger: Forger) -> None:
    """Batches that each fit, and are more than anybody computes."""
    put_recipe(forger, batches=20_000, samples_seen=20_000 << 20, batch_size=1 << 20)


def endless_holdout(forger: Forger) -> None:
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"].update(holdout=10**12))
    forger.mend()


def endless_epochs(forger: Forger) -> None:
    """The locked recipe on a subset of one pair: every sample is an epoch, and every epoch looks at the pool."""
    put_uids(forger, np.load(forger.folder / "uids.npy")[:1].copy())


def model_of_the_hub(forger: Forger) -> None:
    """A name that open_clip would download a stranger's repository for."""
    put_model(forger, "hf-hub:stranger/model")


def model_of_a_folder(forger: Forger) -> None:
    put_model(forger, f"local-dir:{forger.folder}")


def model_of_no_kind(forger: Forger) -> None:
    put_model(forger, "ViT-B-33")


def results_exchanged(forger: Forger) -> None:
    """The record of one task under the name of another, on every seed."""
    for seed in range(2):
        a, b = f"seed-{seed}/eval/cifar10.json", f"seed-{seed}/eval/mnist.json"
        first, second = forger.read(a), forger.read(b)
        forger.write(second, a)
        forger.write(first, b)
    forger.mend()


CASES: dict[Callable[[Forger], None], str] = {
    cherry_picked_tasks: "task mnist is neither",
    dropped_result: "task mnist is neither",
    hidden_seed: "no seed may be left out",
    twice_the_same_task: "stands 2 times",
    edited_aggregate: "average",
    edited_evaluation: "average 0.9000 stated",
    edited_score: "task cifar10: scores by seed",
    score_above_one: "not a fraction",
    fewer_samples: "samples is 10",
    other_task_version: "another version of the task",
    unsorted_uids: "not sorted",
    foreign_uids: "not in the sealed pool",
    dropped_uids: "differs from what the uid file gives",
    empty_uids: "holds no uid",
    edited_ledger: "batch 3 differs",
    other_ledger_digest: "digest over all batches",
    more_samples: "samples_seen",
    secret_recipe: "scale.lr",
    secret_precision: "eval.precision",
    results_of_another_precision: "precision is amp_bfloat16, should be fp32",
    same_run_twice: "same checkpoint",
    broken_chain: "the chain of digests is broken",
    other_protocol: "protocol 'v0'",
    certain_replicates: "do not lie around",
    fewer_replicates: "shape (2, 5, 100), expected (2, 5, 1000)",
    replicates_of_nan: "not fractions",
    endless_checkpoints: "checkpoints",
    endless_samples: "samples_seen is 1e+15, more than 655,360",
    endless_batches: "samples_seen is 2.097e+10",
    endless_holdout: "holdout is 1e+12, more than 1,048,576",
    endless_epochs: "the number of epochs is 6.554e+04, more than 1,000",
    model_of_the_hub: "model 'hf-hub:stranger/model' is neither one of open_clip's own",
    model_of_a_folder: "is neither one of open_clip's own",
    model_of_no_kind: "model 'ViT-B-33' is neither one of open_clip's own",
    results_exchanged: "key is mnist",
}
"""Each case and a part of the reason that must be given."""
