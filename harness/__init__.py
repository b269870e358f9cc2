"""The harness for the data-centric CLIP contest: a selection function in, a verified leaderboard entry out.

    from harness import Pool, Subset, run, evaluate

The public names are those of `__all__`; they are imported when first used, so that listing methods or tasks
stays fast.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.errors import (
    ArtifactError,
    ConfigError,
    HarnessError,
    InfraError,
    MethodError,
    PluginError,
    StageError,
)

if TYPE_CHECKING:
    from harness.entry import load_entry
    from harness.pool.view import Pool
    from harness.selection.context import SelectionContext
    from harness.stages import RunResult
    from harness.subset import Subset

# Threads that wait for each other sleep instead of spinning: beside processes that decode pictures, or anything else
# on the same cores, spinning makes a step several times as slow. Read by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "ArtifactError",
    "ConfigError",
    "HarnessError",
    "InfraError",
    "MethodError",
    "PluginError",
    "Pool",
    "SelectionContext",
    "StageError",
    "Subset",
    "evaluate",
    "load_entry",
    "run",
]

_LAZY = {
    "Pool": "harness.pool.view",
    "SelectionContext": "harness.selection.context",
    "Subset": "harness.subset",
    "load_entry": "harness.entry",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


# Functions rather than lazy names: `import harness.run` (the command's module) would otherwise stand in for `run`.
def run(*overrides: str) -> "RunResult":
    """One contest round, as `python -m harness.run` with the same overrides does it.

    `run("scale=tiny", "method=clip_score", "method.fraction=0.3", "seed=1")` returns the folder, the entry's
    record and the five aggregates. Raises the HarnessError that the command would print.
    """
    from harness.stages import run as run_stages

    return run_stages(*overrides)


def evaluate(
    *,
    model: str,
    checkpoint: str,
    data_dir: str | None = None,
    suite: str = "tiny",
    out: str,
    tasks: list[str] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a suite, as `python -m harness.eval` does it.

    `checkpoint` is a file (safetensors, or a state dict that loads with weights_only) or an open_clip tag;
    `data_dir` None means the generated stand-ins of scale tiny. Returns the payload of the evaluation record:
    scores per task and aggregates, fractions in [0, 1].
    """
    from harness.stages import evaluate as evaluate_checkpoint

    return evaluate_checkpoint(model=model, checkpoint=checkpoint, data_dir=data_dir, suite=suite, out=out, tasks=tasks)
