"""`make` sets up an environment with what the machine has: uv, or pip alone, or half an environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/bash
echo "python $*" >> log
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/pip ;;
  "-m pip --version") test -e .venv/pip ;;
  *" uv") printf '#!/bin/bash\\necho "uv $*" >> log; exit %s' "$UV" > .venv/bin/uv; chmod +x .venv/bin/uv ;;
esac
"""


def make(folder: Path, uv: int) -> list[str]:
    """The commands that `make` runs to install, with a Python that only writes them down."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    subprocess.run(
        ["make", ".venv/.installed", "PYTHON=./python"], cwd=folder, check=True, env={**os.environ, "UV": str(uv)}
    )
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(("uv", "last"), [(0, "uv pip install"), (2, "python -m pip install")])
def test_pip_installs_where_uv_finds_no_index(tmp_path: Path, uv: int, last: str) -> None:
    done = make(tmp_path, uv)
    assert done[0] == "python -m venv .venv"
    assert done[-1].startswith(last)
    assert "--constraint constraints.txt --editable .[dev]" in done[-1]


def test_an_environment_whose_making_was_interrupted_is_made_again(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(PYTHON)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    assert make(tmp_path, 0)[:2] == ["python -m pip --version", "python -m venv .venv"]
