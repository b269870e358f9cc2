"""`python -m harness.convert`: results between our folders and the reference's eval_results.jsonl.

    python -m harness.convert run_dir=runs/small-clip_score-seed0 out=eval_results.jsonl
    python -m harness.convert results=eval_results.jsonl                 # prints scores and aggregates

One line a task: {"key", "dataset", "metrics": {…, "main_metric"}}. Read as if a stranger had written it. As there, the
file of an incomplete evaluation is a shorter one, which its reader averages all the same: so what is missing is said.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from harness import cli, holdout
from harness.errors import ArtifactError, ConfigError
from harness.eval import results, suite
from harness.eval.suite import AGGREGATES, Suite
from harness.files import open_file, write_bytes
from harness.progress import say
from harness.records import Json, Record, StrictModel
from harness.rescore import folder_of

MAX_BYTES = 16 << 20


class Settings(StrictModel):
    """Write the reference's eval_results.jsonl from a run, or read one."""

    run_dir: str | None = Field(default=None, description="a run, or a folder with an evaluation.json")
    out: str | None = Field(default=None, description="the eval_results.jsonl to write")
    results: str | None = Field(default=None, description="an eval_results.jsonl to read")
    suite: str = Field(default="v1", description="the suite that a file to read is of")


def to_reference(chosen: Suite, records: Mapping[str, Record]) -> str:
    """The lines of eval_results.jsonl for the records of tasks by key, in the suite's order."""
    lines = []
    for key, task in chosen.tasks.items():
        if key in records:
            payload = records[key].payload
            counts = {name: float(count) for name, count in payload["counts"].items()}
            # There an empty group is NaN, and only what there is not (acc5 of two classes) is null.
            values = {name: math.nan if v is None and name != "acc5" else v for name, v in payload["metrics"].items()}
            metrics = values | counts | {"main_metric": payload["score"]}
            lines.append(json.dumps({"key": key, "dataset": task.name, "metrics": metrics}))
    return "".join(line + "\n" for line in lines)


def from_reference(path: str | Path, chosen: Suite) -> dict[str, dict[str, Json]]:
    """Metrics by task key of an eval_results.jsonl, `main_metric` among them; NaN comes out as None.

    Raises ArtifactError for a file that is not one, an unknown task, a task that stands twice, or a main metric that
    is not the one of the suite or not in [0, 1].
    """
    with open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{path}: larger than {MAX_BYTES} bytes")
    found: dict[str, dict[str, Json]] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
            key, metrics = value["key"], value["metrics"]
            known = {str(name): _number(given) for name, given in metrics.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ArtifactError(f"{where}: not one task's result as JSON with key and metrics ({error})") from error
        if not isinstance(key, str) or key not in chosen.tasks:
            raise ArtifactError(f"{where}: unknown task {key!r}")
        if key in found:
            raise ArtifactError(f"{where}: task {key} stands twice")
        _check_main(where, key, known, chosen)
        found[key] = known
    if not found:
        raise ArtifactError(f"{path}: holds no result of a task")
    return found


def _number(value: Json) -> float | None:
    if value is None:
        return None
    number = float(value)
    return None if math.isnan(number) else number


def _check_main(where: str, key: str, metrics: dict[str, float | None], chosen: Suite) -> None:
    task = chosen.tasks[key]
    main = metrics.get("main_metric")
    if (main is None) == task.scored:
        raise ArtifactError(f"{where}: main_metric is {main}, but task {key} is {'' if task.scored else 'not '}scored")
    if main is not None and (not 0 <= main <= 1 or main != metrics.get(str(task.main_metric), main)):
        raise ArtifactError(f"{where}: main_metric is {main}, which is not its {task.main_metric} in [0, 1]")


def write(folder: Path, out: str | Path) -> None:
    """Write eval_results.jsonl for the evaluation in `folder` to `out`, and say which tasks are not in it."""
    evaluation, records = results.read(folder)
    if evaluation.payload["suite"] == holdout.KEY:
        raise ConfigError(f"{folder}: of held-out pairs, which DataComp has no results of; give an evaluation of tasks")
    chosen = suite.load(evaluation.payload["suite"])
    write_bytes(out, to_reference(chosen, records).encode())
    missing = [key for key in chosen.tasks if key not in records]
    if missing:
        whole = len(chosen.tasks)
        say(
            f"{out}: holds {whole - len(missing)} of {whole} tasks, and DataComp's averages are of what is there; "
            f"missing: {', '.join(missing)}"
        )


def command(argv: list[str]) -> None:
    """Write the file, or print what one says."""
    settings = cli.settings(argv, Settings)
    if settings.run_dir is not None and settings.out is not None and settings.results is None:
        write(folder_of(settings.run_dir), settings.out)
        return
    if settings.results is None or settings.run_dir is not None or settings.out is not None:
        raise ConfigError("give run_dir=DIR and out=FILE to write, or results=FILE to read")
    chosen = suite.load(settings.suite)
    scores = {key: metrics["main_metric"] for key, metrics in from_reference(settings.results, chosen).items()}
    for key, score in scores.items():
        sys.stdout.write(f"{key:52}{'-' if score is None else f'{score:.4f}':>8}\n")
    aggregates = chosen.aggregate(scores)
    for name in AGGREGATES:
        value = aggregates[name]
        sys.stdout.write(f"{name:52}{'-' if value is None else f'{value:.4f}':>8}\n")


if __name__ == "__main__":
    cli.main(command)
