"""SIGKILL at any moment of any stage: the same command finishes, with the records of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import LONG

from .test_run import records

KILLS = 12


def _start(settings: list[str], cwd: Path) -> "subprocess.Popen[bytes]":
    with open(cwd / "stderr.txt", "ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "harness.run", *settings],
            cwd=cwd,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path, mini_pool: Path, mini_settings: list[str]) -> None:
    settings = [s for s in mini_settings if not s.startswith("pool.path")]
    settings += ["pool.path=pool", "run_dir=run", "method=clip_score", "method.fraction=0.5", "train.reading=reshard"]
    for name in ("plain", "killed"):
        (tmp_path / name).mkdir()
        shutil.copytree(mini_pool, tmp_path / name / "pool")

    started = time.monotonic()
    plain = _start(settings, tmp_path / "plain")
    assert plain.wait(LONG) == 0, (tmp_path / "plain" / "stderr.txt").read_text()
    whole = time.monotonic() - started

    seed = random.SystemRandom().randrange(1 << 32)
    print(f"kill times drawn with seed {seed}")  # noqa: T201 - shown by pytest when the test fails
    draw = random.Random(seed)
    for _ in range(KILLS):
        process = _start(settings, tmp_path / "killed")
        time.sleep(draw.uniform(0.5, whole))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = _start(settings, tmp_path / "killed")
    assert last.wait(LONG) == 0, (tmp_path / "killed" / "stderr.txt").read_text()

    assert records(tmp_path / "killed" / "run") == records(tmp_path / "plain" / "run")
    assert records(tmp_path / "killed" / "pool") == records(tmp_path / "plain" / "pool")
    for file in ("uids.npy", "train/checkpoint.safetensors"):
        assert (tmp_path / "killed" / "run" / file).read_bytes() == (tmp_path / "plain" / "run" / file).read_bytes()
    assert list((tmp_path / "killed" / "run").rglob("*.tmp")) == []
