"""Finished run directories made of nothing: records and files as the stages write them, without a model or a pool.

`world(folder)` seals a pool of random uids; `run(…)` writes one run directory on it with predictions of a chosen skill.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import bootstrap, uid
from harness.config import ByodFolder, MethodConfig, RunConfig, TrainConfig, load_scale
from harness.eval import metrics, predictions
from harness.eval import suite as suites
from harness.eval.suite import Suite, Task
from harness.files import sha256_file
from harness.order import Order, OrderName, protocol
from harness.pool import left_out
from harness.pool.sealed import SHARD_FIELDS, SealedPool, digest_array, save_array
from harness.records import Record, digest_of, write_record
from harness.train import ledger
from harness.train.recipe import checkpoint_steps
from harness.uid import UID_DTYPE, Uids

REPLICATES = bootstrap.REPLICATES


def world(folder: Path, *, samples: int = 3000, shards: int = 4, seed: int = 0) -> SealedPool:
    """A sealed pool of random uids in `folder`; there are no tars."""
    rng = np.random.default_rng(seed)
    uids = np.empty(samples, dtype=UID_DTYPE)
    uids["f0"], uids["f1"] = rng.integers(1 << 63, size=(2, samples), dtype=np.uint64)
    folder.mkdir(parents=True, exist_ok=True)
    uid.save(folder / "uids.npy", uids)
    table = np.zeros(shards, dtype=[("name", "S8"), *SHARD_FIELDS])
    table["name"] = [b"%08d" % i for i in range(shards)]
    table["samples"] = np.diff(np.linspace(0, samples, shards + 1).astype(np.int64))
    save_array(str(folder / "shards.npy"), table)
    payload = {
        "samples": samples, "shards": shards, "table": digest_array(table), "left_out": {"count": 0, "reasons": {}},
        "uids": uid.digest(uids),
    }  # fmt: skip
    left_out.write(str(folder), left_out=[], remarks=[])
    write_record(folder / "pool.json", Record(kind="pool", payload=payload))
    return SealedPool.open(str(folder))


def subset_of(sealed: SealedPool, *, keep: float, seed: int = 0) -> Uids:
    """A random sorted part of the pool."""
    rng = np.random.default_rng(seed)
    return uid.sort(np.asarray(sealed.uids)[rng.random(len(sealed.uids)) < keep])


def run(
    out: Path, sealed: SealedPool, uids: Uids, *, seed: int = 0, skill: float = 0.3, method: str = "clip_score",
    scale: str = "tiny", params: dict[str, Any] | None = None, suite: Suite | None = None, drop: tuple[str, ...] = (),
    byod: Sequence[ByodFolder] = (), order: OrderName = "block_shuffle",
) -> Path:  # fmt: skip
    """A finished run directory; `skill` is about the share of right answers, `drop` names tasks without a result.

    With `byod`, `sealed` is the union of a pool and these folders.
    """
    recipe = load_scale(scale)
    config = RunConfig(scale=recipe, method=MethodConfig(name=method, params=params or {}), seed=seed,
                       byod=list(byod), train=TrainConfig(order=order))  # fmt: skip
    suite = suite or suites.load(recipe.suite)
    out.mkdir(parents=True, exist_ok=True)
    uid.save(out / "uids.npy", uids)
    pool, digest = {"pool": sealed.digest}, uid.digest(uids)
    unique, counts = np.unique(uids, return_counts=True)
    write_record(out / "config.json", Record(
        kind="config", inputs={**pool, "method": digest_of(method)},
        payload={**config.identity, "unofficial": config.unofficial},
    ))  # fmt: skip
    write_record(out / "subset.json", Record(
        kind="subset", inputs=pool, provenance={"seconds": 1.5},
        payload={"uids": digest, "size": len(uids), "distinct": len(unique), "max_count": int(counts.max()),
                 "method": {"name": method, "params": params or {}}, "remarks": [],
                 **({"sources": config.weights} if byod else {})},
    ))  # fmt: skip
    checkpoint = _train(out / "train", config, sealed, uids, inputs={**pool, "subset": digest})
    _evaluate(out / "eval", config, suite, checkpoint, skill=skill, drop=drop)
    return out


def _train(out: Path, config: RunConfig, sealed: SealedPool, uids: Uids, *, inputs: dict[str, str]) -> str:
    scale = config.scale
    order = Order(sealed.uids, sealed.borders, uids, seed=config.seed, batch_size=scale.batch_size,
                  samples_seen=scale.samples_seen, order=config.train.order)  # fmt: skip
    fed = ledger.write(out / "ledger.json", list(order.ledger()), config=config, inputs=inputs)
    weights = out / "checkpoint.safetensors"
    weights.write_bytes(f"weights of seed {config.seed} on {inputs['subset']}".encode())
    checkpoint = sha256_file(weights)
    place = {"path": sealed.path, "seal_dir": sealed.seal_dir}
    steps = checkpoint_steps(scale)
    kept = [
        {"step": step, "file": "-", "sha256": checkpoint if step == steps[-1] else digest_of(step)} for step in steps
    ]
    write_record(out / "train.json", Record(
        kind="train", protocol=protocol(config.train.order), inputs=inputs,
        provenance={"seconds": 60.0, "pool": place},
        payload={"scale": scale.digest, "seed": config.seed, "run": digest_of(inputs), "official": True,
                 "samples_seen": scale.samples_seen, "steps": scale.steps, "checkpoint": checkpoint,
                 "checkpoints": kept, "ledger": fed},
    ))  # fmt: skip
    return checkpoint


def _evaluate(
    out: Path, config: RunConfig, suite: Suite, checkpoint: str, *, skill: float, drop: tuple[str, ...]
) -> None:
    records: dict[str, Record] = {}
    for task in suite.tasks.values():
        if task.key in drop:
            continue
        keys, columns = answers(task, skill=skill, seed=config.seed)
        predictions.write(out / "predictions" / f"{task.slug}.parquet", keys, columns)
        values, counts = metrics.evaluate(task.metrics, columns)
        score = None if task.main_metric is None else values[task.main_metric]
        records[task.key] = Record(
            kind="task",
            inputs={"checkpoint": checkpoint, "data": digest_of(["data", task.key]), "task": task.digest},
            payload={
                "key": task.key, "version": task.version, "samples": task.samples, "main_metric": task.main_metric,
                "score": score, "interval": None if score is None else [max(score - 0.05, 0), min(score + 0.05, 1)],
                "metrics": values, "counts": counts, "model": config.scale.model, "precision": "fp32",
                "classes": task.classes, "classnames": None, "templates": None,
                "predictions": predictions.digest(keys, columns),
            },
        )  # fmt: skip
        write_record(out / f"{task.slug}.json", records[task.key])
    scores = {key: record.payload["score"] for key, record in sorted(records.items())}
    missing = [key for key in suite.tasks if key not in records]
    write_record(out / "evaluation.json", Record(
        kind="evaluation", inputs={"checkpoint": checkpoint, "suite": suite.digest},
        payload={"suite": suite.name, "model": config.scale.model, "precision": "fp32", "scores": scores,
                 "aggregates": suite.aggregate(scores), "complete": not missing, "missing": missing,
                 "results": {key: record.digest for key, record in sorted(records.items())}},
    ))  # fmt: skip


def answers(task: Task, *, skill: float, seed: int) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    """Keys and columns of predictions on a task whose labels depend on its key and whose answers on the seed."""
    truth = np.random.default_rng(list(task.key.encode()))
    rng = np.random.default_rng([seed, *task.key.encode(), int(skill * 1e6)])
    n, classes = task.samples, task.classes or 8
    if task.kind == "retrieval":
        return _retrieval(n, rng, skill)
    keys = [f"{i:07d}" for i in range(n)]
    right = rng.random(n) < skill
    if task.kind == "winogavil":
        candidates = truth.choice([5, 6, 10, 12], size=n)
        associated = np.full((n, 12), -1)
        associated[:, :2] = [0, 1]
        chosen = associated.copy()
        chosen[~right, :2] = [1, 2]
        return keys, {"candidates": candidates, "chosen": chosen, "associated": associated}
    if task.metrics == "fairness_faces":
        metadata = np.stack([truth.integers(size, size=n) for size in (9, 2, 7, 2)], axis=1)
        predicted = np.stack([rng.integers(size, size=n) for size in (7, 2, 9, 20)], axis=1)
        return keys, {"predicted": predicted, "metadata": metadata}
    target = np.arange(n) % classes
    truth.shuffle(target)
    wrong = (target[:, None] + 1 + np.stack([rng.permutation(max(classes - 1, 5))[:5] for _ in range(n)])) % max(
        classes, 6
    )
    top = wrong.copy()
    top[right, 0] = target[right]
    top[:, classes:] = -1
    top[top >= classes] = 0
    columns = {"target": target, "top": top}
    if task.metadata:
        metadata = np.stack([truth.integers(4, size=n) % (size or 4) for size in task.metadata.values()], axis=1)
        columns["metadata"] = metadata
    return keys, columns


def _retrieval(images: int, rng: np.random.Generator, skill: float) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    captions = 5 * images
    of = np.repeat(np.arange(images), 5)
    queries = images + captions
    top = np.concatenate([rng.integers(captions, size=(images, 10)), rng.integers(images, size=(captions, 10))])
    first = np.concatenate([np.arange(images) * 5, of])
    last = np.concatenate([np.arange(images) * 5 + 5, of + 1])
    right = rng.random(queries) < skill
    top[right, 0] = first[right]
    keys = [f"image {i}" for i in range(images)] + [f"caption {i}" for i in range(captions)]
    return keys, {"query_is_image": np.arange(queries) < images, "top": top, "first": first, "last": last}
