import os
import re
import subprocess
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
