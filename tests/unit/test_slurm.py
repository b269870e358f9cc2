import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from harness import cli, download

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.iterdir() if path.suffix in (".sh", ".sbatch")))
def test_scripts_are_valid_bash(script: str) -> None:
    subprocess.run(["bash", "-n", SCRIPTS / script], check=True)
    lines = (SCRIPTS / script).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[number]) for number in options)
    # sbatch reads no option behind the first command.
    assert all(not line or line.startswith("#") for line in lines[: max(options, default=0)])


def submitted(tmp_path: Path, *arguments: str, task: str | None) -> "subprocess.CompletedProcess[str]":
    """download.sbatch as a task of an array runs it, with a Python that says what it is given."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    given = {} if task is None else {"SLURM_ARRAY_TASK_ID": task}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return subprocess.run(["bash", SCRIPTS / "download.sbatch", *arguments], capture_output=True, text=True,
                          env={**environment, "PYTHON": str(python), **given})  # fmt: skip


def test_each_task_of_an_array_downloads_its_part(tmp_path: Path) -> None:
    done = submitted(tmp_path, "26", "scale=small", "data_dir=/shared/a pool", task="7")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["-m", "harness.download"]
    settings = cli.settings(done.stdout.splitlines()[2:], download.Settings)
    assert settings == download.Settings(scale="small", data_dir="/shared/a pool", part="7/26")


def test_a_submission_without_parts_or_array_says_what_is_missing(tmp_path: Path) -> None:
    assert "give the number of parts first" in submitted(tmp_path, task="7").stderr
    alone = submitted(tmp_path, "26", "scale=small", "data_dir=x", task=None)
    assert alone.returncode != 0 and "submit it with --array=1-26" in alone.stderr


SRUN = """#!/bin/bash
nodes=$SLURM_NNODES
while [[ $1 == --* ]]; do [[ $1 == --nodes=* ]] && nodes=${1#--nodes=}; shift; done
trap 'kill -KILL "${pids[@]}"' TERM
pids=()
for ((node = 0; node < nodes; node++)); do "$@" & pids+=($!); done
for pid in "${pids[@]}"; do while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done; done
"""
"""It kills its tasks when it is told to end, as the real one does."""
SCANCEL = """#!/bin/bash
[ "$*" = "--signal=TERM 7" ] && kill -TERM $(cat "$TASKS")
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'first\\nsecond\\n'; else echo "scontrol $*" >> "$SEEN"; fi
"""
PYTHON = """#!/bin/bash
trap 'echo "told to stop" >> "$SEEN"; exit 7' TERM
[[ "$*" == *torch.distributed.run* ]] && echo $$ >> "$TASKS"
echo "$*" >> "$SEEN"
[[ "$*" == *torch.distributed.run* && -n $WAITS ]] || exit 0
for ((i = 0; i < 6000; i++)); do sleep 0.05; done
"""
"""Of a training process, until it is told to stop if WAITS is set."""


def round_of(tmp_path: Path, *, waits: bool) -> tuple["subprocess.Popen[bytes]", Path]:
    """run.sbatch started in a job of two nodes, both on this machine, and the file of all that it does."""
    for name, content in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL), ("python", PYTHON)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    seen = tmp_path / "seen"
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NODELIST": "n[1-2]"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python",
                   "SEEN": str(seen), "TASKS": str(tmp_path / "tasks"), "WAITS": "1" if waits else ""}  # fmt: skip
    return subprocess.Popen(["bash", SCRIPTS / "run.sbatch", "scale=small", "run_dir=/r"], env=environment), seen


TRAINING = (
    "-m torch.distributed.run --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=first:29500 "
    "--rdzv-id=7 -m harness.train scale=small run_dir=/r train.reading=mask"
)


def test_a_round_on_two_nodes_selects_once_and_trains_on_both(tmp_path: Path) -> None:
    job, seen = round_of(tmp_path, waits=False)
    assert job.wait(300) == 0
    assert seen.read_text().splitlines() == [
        "-m harness.select scale=small run_dir=/r", TRAINING, TRAINING,
        "-m harness.run scale=small run_dir=/r train.reading=mask",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_is_told_to_stop_has_all_nodes_save_and_is_requeued(tmp_path: Path, number: int) -> None:
    job, seen = round_of(tmp_path, waits=True)
    until = time.monotonic() + 300
    while not seen.exists() or seen.read_text().count("torch.distributed.run") < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    job.send_signal(number)
    assert job.wait(300) == 0
    assert seen.read_text().splitlines()[-3:] == ["told to stop", "told to stop", "scontrol requeue 7"]
