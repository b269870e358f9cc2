"""`python -m harness.eval`: score a checkpoint on the tasks of a suite.

    python -m harness.eval model=ViT-B-32 checkpoint=FILE suite=v1 eval.data_dir=DIR out=DIR
    python -m harness.eval run_dir=runs/tiny-clip_score-seed0

`checkpoint` is a safetensors file, a state dict that loads with weights_only, or an open_clip tag. With `run_dir`,
model, checkpoint and all that is not given are those of the finished run; a suite, precision or task that is not the
run's own is refused.
"""

import contextlib
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness import cli, files, settled
from harness import executor as executors
from harness.config import EvalConfig
from harness.errors import ArtifactError, ConfigError, StageError
from harness.eval import report, suite
from harness.records import StrictModel, read_record
from harness.tiny import cache as tiny
from harness.weights import WEIGHTS, weights_of


class Settings(StrictModel):
    """Score a checkpoint on the tasks of a suite."""

    run_dir: str | None = Field(default=None, description="a finished run, instead of model, checkpoint and out")
    model: str | None = Field(default=None, description="open_clip name, or a file of configs/model/")
    checkpoint: str | None = Field(default=None, description="safetensors, a plain state dict, or an open_clip tag")
    suite: str | None = Field(default=None, description="v1 or tiny")
    tasks: list[str] | None = Field(default=None, min_length=1, description="only these keys")
    out: str | None = Field(default=None, description="folder of the results")
    eval: EvalConfig = EvalConfig()
    executor: Literal["local", "ray"] | None = Field(default=None, description="this machine, or a Ray cluster")


def command(argv: list[str]) -> None:
    """Evaluate and print the scores."""
    settings = cli.settings(argv, Settings)
    if settings.run_dir is not None:
        settings = _of_run(settings, Path(settings.run_dir))
    if settings.model is None or settings.checkpoint is None or settings.out is None:
        missing = next(name for name in ("model", "checkpoint", "out") if getattr(settings, name) is None)
        raise ConfigError(f"setting {missing}: needed, or run_dir=DIR of a finished run")
    chosen = suite.load(settings.suite or settings.eval.suite or "tiny")
    tasks = settings.tasks or settings.eval.tasks
    chosen.select(tasks)  # a misspelt key answers before torch is imported
    out = Path(settings.out)
    how = settings.eval
    with files.lock(settings.run_dir or out):
        from harness.eval.run import evaluate

        try:
            evaluate(
                model=settings.model,
                checkpoint=settings.checkpoint,
                suite=chosen,
                data_dir=tiny.find_tasks(chosen.name, how.data_dir),
                out=out,
                tasks=tasks,
                device=how.device,
                workers=how.workers,
                batch_size=how.batch_size,
                precision=how.precision,
                executor=executors.ray_for_models(how.device) if settings.executor == "ray" else None,
            )
        except StageError:
            with contextlib.suppress(ArtifactError):  # nothing was evaluated
                sys.stdout.write(report.table(out, chosen))
            raise
    sys.stdout.write(report.table(out, chosen))


def _of_run(settings: Settings, run_dir: Path) -> Settings:
    """The settings with what the run's own record says."""
    given = [name for name in ("model", "checkpoint", "out") if getattr(settings, name) is not None]
    if given:
        raise ConfigError(f"setting {given[0]}: run_dir says it already; give one of the two")
    run = settled.read_settings(run_dir)
    more = {"suite": settings.suite, "tasks": settings.tasks}
    how = run.eval.model_copy(
        update=settings.eval.model_dump(exclude_unset=True) | {key: value for key, value in more.items() if value}
    )
    # Some of the run's tasks are evaluated at a time as one likes; others would be no part of the run.
    others = sorted(set(how.tasks or ()) - set(run.eval.tasks or how.tasks or ()))
    compared = how if others else how.model_copy(update={"tasks": run.eval.tasks})
    settled.require_settings(run_dir, run.model_copy(update={"eval": compared}))
    trained = run_dir / "train"
    weights = weights_of(trained, read_record(trained / "train.json", "train"))
    if weights is None:
        raise ArtifactError(f"{trained / WEIGHTS}: no such file; bring it back, or train the run again")
    return settings.model_copy(update={
        "model": run.scale.model, "checkpoint": str(weights),
        "suite": how.suite or run.scale.suite, "tasks": how.tasks, "out": str(run_dir / "eval"),
        "executor": settings.executor or run.executor, "eval": how,
    })  # fmt: skip


if __name__ == "__main__":
    cli.main(command)
