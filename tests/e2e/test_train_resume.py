"""Training ends in the same weights however often it is killed, and in however many processes it is done."""

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from waiting import LONG

from harness import executor
from harness.pool.seal import seal
from harness.records import Record, read_record
from harness.subset import Subset

_spec = importlib.util.spec_from_file_location("pools", Path(__file__).parents[1] / "unit" / "train" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
pools = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pools)

STEPS = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    pools.write_pool(folder / "pool")
    sealed = seal(str(folder / "pool"), executor=executor.local(1))
    Subset.of(np.asarray(sealed.uids[:70])).save(folder / "uids.npy")
    return folder


def command(root: Path, out: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "harness.train", f"pool.path={root}/pool", f"subset={root}/uids.npy", f"out={root}/{out}",
        f"scale.samples_seen={STEPS * 16}", "scale.batch_size=16", "train.device=cpu", *more,
    ]  # fmt: skip


def run(root: Path, out: str, *more: str) -> Record:
    done = subprocess.run(command(root, out, *more), capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    return read_record(root / out / "train.json", "train")


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Record:
    return run(root, "whole")


@pytest.mark.slow
def test_killed_at_random_steps(root: Path, undisturbed: Record) -> None:
    rng = random.Random(time.time_ns())
    killed = 0
    for workers in (2, 0, 1, 0):
        # The first comes right after the first steps, and so before the end on a machine of any speed.
        first = not killed
        child = subprocess.Popen(
            command(root, "killed", "train.checkpoint_minutes=1e-6", f"train.workers={workers}"), stderr=subprocess.PIPE
        )
        log, wanted = root / "killed" / "log.jsonl", rng.randrange(1, 4 if first else STEPS - 2)
        while child.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < wanted):
            time.sleep(0.005)
        if child.poll() is None:
            if not first:
                time.sleep(rng.random() * 0.2)  # anywhere in a step, or in the writing of a snapshot
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.communicate()
    assert killed
    assert run(root, "killed").digest == undisturbed.digest


@pytest.mark.slow
def test_two_processes_train_as_one(root: Path, undisturbed: Record) -> None:
    record = run(root, "two", "train.gpus=2")
    assert record.provenance["processes"] == 2
    assert record.payload["ledger"] == undisturbed.payload["ledger"]
    one, two = (load_file(root / name / "checkpoint.safetensors") for name in ("whole", "two"))
    # Batches of 16 leave rounding noise in the biases of keys, whose gradient is zero but for rounding.
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3
    assert all(path.name in ("uids.npy", "job.json") or path.exists() for path in (root / "two").iterdir())


@pytest.mark.slow
def test_an_error_in_one_process_is_the_error_of_the_command(root: Path) -> None:
    done = subprocess.run(
        command(root, "bad", "train.gpus=2", "scale.lr=1e38"), capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1].startswith("error: training: the loss is nan")
    assert not (root / "bad" / "train.json").exists()


def ranks(out: Path) -> list[int]:
    """Process ids of the training processes of a run in `out`."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(out / "job.json") in words and b"harness.train.torchrun" not in words:
            found.append(int(place.parent.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_processes_that_are_told_to_stop_save_first(root: Path, undisturbed: Record, number: signal.Signals) -> None:
    out = root / f"told-{number}"
    child = subprocess.Popen(command(root, out.name, "train.gpus=2"), stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not (out / "checkpoints").exists():
        time.sleep(0.005)
    child.send_signal(number)
    _, said = child.communicate(timeout=LONG)
    assert child.returncode == 7, said
    assert "Traceback" not in said
    stopped = re.fullmatch(r"error: stopped at step (\d+) as asked; .*", said.splitlines()[-1])
    assert stopped, said
    assert not (out / "train.json").exists()
    record = run(root, out.name, "train.gpus=2")
    assert record.provenance["resumed_at"] == int(stopped[1])
    assert record.payload["ledger"] == undisturbed.payload["ledger"]


@pytest.mark.slow
def test_a_lost_process_is_an_infra_error_and_the_run_goes_on(root: Path, undisturbed: Record) -> None:
    settings = ("train.gpus=2", "train.checkpoint_minutes=1e-6")
    child = subprocess.Popen(command(root, "lost", *settings), stderr=subprocess.PIPE, text=True)
    log = root / "lost" / "log.jsonl"
    while child.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 2):
        time.sleep(0.005)
    os.kill(ranks(root / "lost")[-1], signal.SIGKILL)
    _, said = child.communicate(timeout=LONG)
    assert child.returncode == 7, said
    assert said.splitlines()[-1].startswith("error: ")
    assert not (root / "lost" / "train.json").exists()
    record = run(root, "lost", *settings)
    assert record.provenance["resumed_at"] > 0
    assert record.payload["ledger"] == undisturbed.payload["ledger"]
