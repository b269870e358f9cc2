"""Many rounds of the contest at scale tiny, each a process: which are done, how long the others take, running them."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.compose import compose
from harness.errors import ArtifactError
from harness.finished import read_run
from harness.plan import duration
from harness.progress import say
from harness.records import read_record
from harness.stages import bind

RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One training seed of one method at scale tiny."""

    name: str
    """What is trained; the run folder is `runs/tiny-<name>-seed<seed>`."""
    overrides: tuple[str, ...]
    """As for harness.run, beside scale, seed and run_dir."""
    seed: int
    runs: Path = RUNS

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.runs / f"tiny-{self.name}-seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """Of harness.run."""
        return ["scale=tiny", *self.overrides, f"seed={self.seed}", f"run_dir={self.folder}"]

    def settings(self) -> dict[str, Any]:
        """The payload of config.json that these arguments give; ConfigError for a setting that does not exist."""
        config, _ = bind(compose(self.arguments))
        return {**config.identity, "unofficial": config.unofficial}

    @property
    def samples(self) -> int:
        """Samples seen in training."""
        return int(self.settings()["scale"]["samples_seen"])

    def done(self) -> bool:
        """True if the folder holds a finished run of these settings."""
        return (self.folder / "entry" / "entry.json").exists() and made_with(self.folder, self.settings())

    def seconds(self) -> float:
        """What selection, training and evaluation of a finished run took."""
        run = read_run(self.folder)
        return sum(record.provenance.get("seconds") or 0.0 for record in (run.subset, run.train, run.evaluation))


def made_with(folder: Path, settings: dict[str, Any]) -> bool:
    """True if the config.json in `folder` states these settings."""
    try:
        return read_record(folder / "config.json", "config").payload == settings
    except ArtifactError:
        return False


def estimate(took: Mapping[Round, float], missing: Sequence[Round]) -> str:
    """How long the missing rounds take one after another, by the seconds a sample that others `took`."""
    if not took or not missing:
        return f"{len(missing)} rounds missing"
    total = median(seconds / job.samples for job, seconds in took.items()) * sum(job.samples for job in missing)
    each = total / len(missing)
    return f"{len(missing)} rounds missing, about {duration(total)} one by one ({each:.0f} s each, by those so far)"


def run(rounds: Sequence[Round], *, jobs: int) -> dict[Round, str]:
    """Run the rounds, `jobs` at a time with an equal share of the cores; the last line of each that failed.

    When this process is told to stop, so are those at hand, and no further round is started.
    """
    threads = str(max(len(os.sched_getaffinity(0)) // jobs, 1))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    running: set[subprocess.Popen[bytes]] = set()
    stopped = threading.Event()

    def one(job: Round) -> str | None:
        job.runs.mkdir(parents=True, exist_ok=True)
        log = job.folder.with_name(f"{job.folder.name}.log")
        with open(log, "w") as file:
            command = [sys.executable, "-m", "harness.run", *job.arguments]
            # In a session of its own: Ctrl-C comes to it from here alone, as SIGTERM does, and once.
            child = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            running.add(child)
            if stopped.is_set():
                child.terminate()
            code = child.wait()
        last = (log.read_text().strip().splitlines() or ["nothing said"])[-1].removeprefix("error: ")
        say(f"{job.folder}: {'done' if code == 0 else f'failed with {code}: {last}'}")
        return None if code == 0 else f"{job.folder}: {last} (all of it: {log})"

    pool = ThreadPoolExecutor(jobs)
    try:
        said = list(pool.map(one, rounds))
    except BaseException:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(running):
            child.terminate()
        raise
    finally:
        pool.shutdown()
    return {job: line for job, line in zip(rounds, said, strict=True) if line is not None}
