"""The training stage: subset in, checkpoint, ledger and record out; the same call resumes, or finds it done."""

import functools
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness import files
from harness.config import RunConfig, locked_differences
from harness.errors import ConfigError, StageError
from harness.order import Order, protocol
from harness.pool.seal import patient_lock
from harness.pool.sealed import SealedPool
from harness.provenance import provenance
from harness.records import Record, digest_of, read_record, write_record
from harness.train import checkpoint, ledger
from harness.train.ahead import ReadAhead
from harness.train.loop import Fitted, fit
from harness.train.recipe import checkpoint_file, checkpoint_steps
from harness.train.staging import staging
from harness.train.stream import Preparer, Staged, Stream
from harness.train.world import World, join, under_torchrun
from harness.weights import weights_of

if TYPE_CHECKING:
    from harness.reshard import ReshardedPool
    from harness.subset import Subset

RECORD = "train.json"
WORKERS_MOST = 16


def train(
    config: RunConfig,
    *,
    sealed: SealedPool,
    subset: "Subset",
    resharded: "ReshardedPool | None" = None,
    out: Path,
) -> Record:
    """The training record in `out`; trains now, or goes on from a snapshot there, if it is not complete.

    Reads the pool's own tars, or `resharded` ones; the result is the same. With train.gpus above 1 the work is done in
    processes that torchrun starts on this node.

    Raises ArtifactError (a sample cannot be read, or is another), StageError (the loss is not finite; `out` holds
    another run), ConfigError (more processes than samples in a batch; tars of another subset or pool) or InfraError
    (disk, memory, a lost process; also after SIGTERM, when all is saved).
    """
    out = Path(out)
    inputs = {"pool": sealed.digest, "subset": subset.digest}
    if resharded is not None and resharded.blur:
        inputs["shards"] = resharded.digest  # blurred pictures are other pictures; plain copies change nothing
    identity = digest_of(
        {**_facts(config), "inputs": inputs, "order": config.train.order, "holdout": config.pool.holdout}
    )
    done = _finished(out, identity)
    if done is not None:
        return done
    if resharded is not None:
        resharded.require_made_from(sealed, subset)
    if config.train.gpus > 1 and not under_torchrun():
        from harness.train import worker

        worker.launch(config, sealed=sealed, subset=subset, resharded=resharded, out=out)
        return read_record(out / RECORD, "train")
    with join(config.train.device) as world, patient_lock(str(out)) if world.first else nullcontext():
        if world.largest(int(world.first and _finished(out, identity) is not None)):
            return read_record(out / RECORD, "train")  # by another command, while this one waited for its end
        _require_work_for_all(config, world)
        order = Order(
            sealed.uids, sealed.borders, subset.uids, seed=config.seed, batch_size=config.scale.batch_size,
            samples_seen=config.scale.samples_seen, order=config.train.order,
            exclude=sealed.holdout(config.pool.holdout),
        )  # fmt: skip
        source = resharded.path if resharded is not None else None
        workers = _workers(config, world)
        rows_of = None if resharded is None else resharded.rows
        tars = resharded or sealed
        with (
            ReadAhead(order, tars, rows_of=rows_of) as ahead,
            staging(
                config.train.cache_dir, order, tars, rows_of=rows_of, borders=sealed.borders, out=out, world=world
            ) as copies,
        ):

            def reached(given: int, start: int, stop: int) -> bool:
                ahead.reach(start)
                return copies is None or copies.reach(given, stop)

            make = functools.partial(
                _preparer, sealed.path, sealed.seal_dir, source, config.scale.model, config.seed,
                None if copies is None else copies.staged.folder,
            )  # fmt: skip
            stream = Stream(order, make, world=world, workers=workers, reached=reached)
            fitted = fit(config, order, stream, world=world, out=out, run=identity, inputs=inputs)
        if world.first:
            _finish(config, fitted, world=world, out=out, inputs=inputs, identity=identity, workers=workers,
                    reading="mask" if resharded is None else "reshard", sealed=sealed)  # fmt: skip
        world.barrier()
    return read_record(out / RECORD, "train")


def _facts(config: RunConfig) -> dict[str, Any]:
    return {"scale": config.scale.digest, "seed": config.seed}


def _finished(out: Path, identity: str) -> Record | None:
    """The record in `out` if its weights are there; StageError if it is of another run, ArtifactError if they are."""
    if not (out / RECORD).exists():
        return None
    record = read_record(out / RECORD, "train")
    if record.payload["run"] != identity:
        raise StageError(
            f"{out}: holds a finished training with other settings or inputs; delete it or choose another folder"
        )
    return None if weights_of(out, record) is None else record


def _require_work_for_all(config: RunConfig, world: World) -> None:
    """ConfigError unless all processes have equally many slices of every batch, which keeps them in step."""
    smallest = config.scale.samples_seen - (config.scale.steps - 1) * config.scale.batch_size
    if world.size > 1 and smallest < world.size * config.train.accumulate:
        raise ConfigError(
            f"train.gpus and train.accumulate: the smallest batch holds {smallest:,} samples, too few for "
            f"{world.size:,} processes with {config.train.accumulate:,} slices each; take fewer"
        )


def open_tars(path: str | None) -> "ReshardedPool | None":
    """The resharded tars in `path`, where they are read instead of the pool's own."""
    if path is None:
        return None
    from harness.reshard import ReshardedPool  # most loaders need none of it, and start sooner

    return ReshardedPool.open(path)


def _preparer(
    path: str, seal_dir: str, resharded: str | None, model: str, seed: int, staged: str | None = None
) -> Preparer:
    """Opens the tars in a loader worker, which shares no memory with the training process; `staged` is a folder."""
    sealed, tars = SealedPool.open(path, seal_dir), open_tars(resharded)
    rows_of = None if tars is None else tars.rows
    copies = None if staged is None else Staged(staged, sealed.borders)
    return Preparer(tars or sealed, uids=sealed.uids, rows_of=rows_of, model_name=model, seed=seed, staged=copies)


def _workers(config: RunConfig, world: World) -> int:
    """Loader processes: what was asked for, else the cores beside the training process, none for a CPU run."""
    if config.train.workers is not None:
        return config.train.workers
    if world.device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(max(cores - 1, 1), WORKERS_MOST)


def _finish(
    config: RunConfig, fitted: Fitted, *, world: World, out: Path, inputs: dict[str, str], identity: str, workers: int,
    reading: str, sealed: SealedPool,
) -> None:  # fmt: skip
    """Write the record, last of all; then the snapshot has served."""
    scale = config.scale
    kept = []
    for step in checkpoint_steps(scale):
        name = checkpoint_file(scale, step)
        kept.append({"step": step, "file": name, "sha256": files.sha256_file(out / name)})
    steps = max(fitted.steps - fitted.resumed, 1)
    record = Record(
        kind="train",
        protocol=protocol(config.train.order),
        inputs=inputs,
        payload={
            **_facts(config),
            "run": identity,
            "official": not locked_differences(scale) and config.train.order == "block_shuffle"
            and not config.pool.holdout,
            "samples_seen": scale.samples_seen,
            "steps": fitted.steps,
            "checkpoint": kept[-1]["sha256"],
            "checkpoints": kept,
            "ledger": ledger.read(out / ledger.FILE)["digest"],
        },
        provenance=provenance(
            seconds=fitted.seconds,
            samples_per_second=round(steps * scale.batch_size / max(fitted.seconds, 1e-9), 1),
            busy=round(fitted.busy, 4),
            resumed_at=fitted.resumed,
            device=torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
            processes=world.size,
            workers=workers,
            accumulate=config.train.accumulate,
            compiled=config.train.compile,
            reading=reading,
            pool={"path": sealed.path, "seal_dir": sealed.seal_dir},
        ),
    )  # fmt: skip
    write_record(out / RECORD, record)
    (out / checkpoint.SNAPSHOT).unlink(missing_ok=True)
