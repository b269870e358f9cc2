"""One of several training processes on this node: what `train.gpus=N` has torchrun start N times.

The parent writes job.json and waits; a child that fails leaves its error beside it, so that the parent can raise it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness import cli, uid
from harness.config import RunConfig, validated
from harness.device import pick
from harness.errors import ConfigError, HarnessError, InfraError
from harness.files import write_bytes
from harness.pool.sealed import SealedPool
from harness.records import StrictModel, canonical_json, read_json
from harness.subset import Subset
from harness.train.run import open_tars, train
from harness.train.world import when_told_to_stop

if TYPE_CHECKING:
    from harness.reshard import ReshardedPool

PARENT = "HARNESS_PARENT"
PATIENCE = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "150"}
"""Has torchrun wait so many seconds for its processes to save when it is told to stop (torch before 2.12 waits 30)."""


class Job(StrictModel):
    """What a training process must know."""

    config: RunConfig
    pool: str
    seal_dir: str
    subset: str
    """The uid file."""
    shards: str | None
    out: str


class Failure(StrictModel):
    """The error with which a process ended."""

    kind: str
    message: str


def launch(
    config: RunConfig, *, sealed: SealedPool, subset: Subset, resharded: "ReshardedPool | None", out: Path
) -> None:
    """Train in config.train.gpus processes on this node through torchrun; raises the error of the first that failed.

    ConfigError if there are not so many GPUs, or cores where the processes share those.
    """
    cuda, cores = pick(config.train.device, setting="train.device").type == "cuda", len(os.sched_getaffinity(0))
    most = torch.cuda.device_count() if cuda else cores
    if config.train.gpus > most:
        there = f"{most} GPUs" if cuda else f"{most} cores to train on without a GPU"
        raise ConfigError(f"setting train.gpus={config.train.gpus}: this machine has {there}; take no more than that")
    uids = out / "uids.npy"
    uid.save(uids, subset.uids)
    job = Job(
        config=config, pool=sealed.path, seal_dir=sealed.seal_dir, subset=str(uids),
        shards=resharded.path if resharded is not None else None, out=str(out),
    )  # fmt: skip
    write_bytes(out / "job.json", canonical_json(job.model_dump()))
    for old in out.glob("failure-*.json"):
        old.unlink()
    processes = config.train.gpus
    command = [
        sys.executable, "-m", "harness.train.torchrun", "--standalone", f"--nproc-per-node={processes}",
        "-m", "harness.train.worker", str(out / "job.json"),
    ]  # fmt: skip
    threads = str(max(1, cores // processes))
    environment = {"OMP_NUM_THREADS": threads, **PATIENCE, **os.environ, PARENT: str(os.getpid())}
    child = subprocess.Popen(command, env=environment)
    with when_told_to_stop(child.terminate):
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    if code:
        raise _failure(out) or InfraError(
            f"training in {processes} processes ended with code {code}; run the same command again, it resumes"
        )


def _failure(out: Path) -> HarnessError | None:
    """The error that a process left; where one is the cause of others, that one: they only lost a process."""
    kinds = {kind.__name__: kind for kind in _all_kinds(HarnessError)}
    failures = [validated(Failure, read_json(path)) for path in sorted(out.glob("failure-*.json"))]
    errors = [kinds.get(failure.kind, InfraError)(failure.message) for failure in failures]
    return min(errors, key=lambda error: isinstance(error, InfraError), default=None)


def _all_kinds(kind: type[HarnessError]) -> list[type[HarnessError]]:
    return [kind, *(inner for k in kind.__subclasses__() for inner in _all_kinds(k))]


def command(argv: list[str]) -> None:
    """Train as the job file says."""
    job = validated(Job, read_json(argv[0]))
    threading.Thread(target=_stop_with_parent, args=(int(os.environ.get(PARENT, os.getppid())),), daemon=True).start()
    out = Path(job.out)
    sealed = SealedPool.open(job.pool, job.seal_dir)
    resharded = open_tars(job.shards)
    try:
        train(job.config, sealed=sealed, subset=Subset.load(job.subset), resharded=resharded, out=out)
    except KeyboardInterrupt:
        sys.exit(130)  # what is to be said the parent says, once
    except HarnessError as error:
        failure = Failure(kind=type(error).__name__, message=str(error))
        write_bytes(out / f"failure-{os.environ.get('RANK', '0')}.json", canonical_json(failure.model_dump()))
        if os.environ.get("HARNESS_TRACEBACK"):
            raise
        sys.exit(error.exit_code)


def _stop_with_parent(parent: int) -> None:
    """Ask this process to save and stop when the command that started it is gone (torchrun would go on)."""
    while True:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(1)


if __name__ == "__main__":
    cli.main(command)
