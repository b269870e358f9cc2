"""`python -m harness.tasks [suite=NAME]`: the tasks of a suite."""

import sys

from pydantic import Field

from harness import cli
from harness.eval import suite
from harness.records import StrictModel


class Settings(StrictModel):
    """List the tasks of a suite: key, kind, samples, classes, main metric, chance, group."""

    suite: str = Field(default="v1", description=f"one of {', '.join(suite.names())}")


def command(argv: list[str]) -> None:
    """Print one line a task."""
    chosen = suite.load(cli.settings(argv, Settings).suite)
    lines = [f"{'key':52}{'kind':15}{'samples':>8}{'classes':>8}  {'main metric':22}{'chance':>9}  group"]
    for task in chosen.tasks.values():
        classes = "-" if task.classes is None else str(task.classes)
        chance = "-" if task.chance is None else f"{task.chance:.6f}"
        lines.append(
            f"{task.key:52}{task.kind:15}{task.samples:>8}{classes:>8}  "
            f"{task.main_metric or 'reported, not scored':22}{chance:>9}  {task.group or '-'}"
        )
    lines.append(f"{len(chosen.tasks)} tasks, {len(chosen.scored)} scored")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    cli.main(command)
