"""A sweep whose jobs hydra's submitit launcher starts: here with submitit's local executor, on a cluster with SLURM."""

from pathlib import Path

import pytest
from pool_folders import write_pool

from .conftest import command

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'datacomp-harness[slurm]'")

SWEEP = (
    "harness.run",
    "-m",
    "hydra/launcher=submitit_local",
    "scale=tiny",
    "pool.weight=0",
    "dry_run=true",
    "seed=0,1",
)


@pytest.mark.slow
def test_every_job_runs_and_a_failure_is_told(run_in: Path) -> None:
    write_pool(run_in / "mine")
    sealed = command("harness.pool", "seal", "mine", cwd=run_in)
    assert sealed.returncode == 0, sealed.stderr
    done = command(*SWEEP, "byod=[{path: mine}]", cwd=run_in)
    assert done.returncode == 0, done.stderr
    logs = [path.read_text() for path in (run_in / "runs" / ".submitit").rglob("*_log.out")]
    assert len(logs) == 2
    assert all("subset    24 uids" in text for text in logs)

    failed = command(*SWEEP, "byod=[{path: nowhere}]", cwd=run_in)
    assert failed.returncode == 6
    assert "error: nowhere: not sealed yet" in failed.stderr
