"""`python -m harness.rescore run_dir=DIR`: every metric again, from the stored predictions alone.

Needs neither the model nor a GPU nor the task data. `run_dir` is a run, or any folder with an evaluation.json, such as
the `holdout` of a run that held pairs out.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from harness import cli, holdout
from harness.errors import ArtifactError
from harness.eval import predictions, results
from harness.records import Json, StrictModel

TOLERANCE = 1e-9
"""Sums in another order differ in the last digits; anything more is another result."""


class Settings(StrictModel):
    """Recompute every metric from the stored predictions and compare."""

    run_dir: str = Field(description="a run, or a folder with an evaluation.json")


def folder_of(run_dir: str | Path) -> Path:
    """The folder of the evaluation in `run_dir`, or `run_dir` itself."""
    inner = Path(run_dir) / "eval"
    return inner if (inner / results.EVALUATION).exists() else Path(run_dir)


def differences(stated: Json, found: Json, name: str = "") -> Iterator[str]:
    """Sentences on where two JSON values differ, numbers by more than TOLERANCE."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted({*stated, *found}):
            yield from differences(stated.get(key), found.get(key), f"{name}.{key}" if name else key)
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for place, pair in enumerate(zip(stated, found, strict=True)):
            yield from differences(*pair, f"{name}[{place}]")
    elif isinstance(stated, float) and isinstance(found, float):
        if not math.isclose(stated, found, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{name}: {stated:.6f} stated, {found:.6f} recomputed"
    elif stated != found:
        yield f"{name}: {stated} stated, {found} recomputed"


def rescore(folder: Path) -> dict[str, list[str]]:
    """What differs, by task key, between the records in `folder` and their predictions; empty lists where nothing does.

    The aggregates are compared too, under the key `aggregates`. ArtifactError if a file is missing or broken.
    """
    evaluation, records = results.read(folder)
    chosen = holdout.suite_of(evaluation, records)
    report: dict[str, list[str]] = {}
    scores: dict[str, float | None] = {}
    for key, record in records.items():
        (task,) = chosen.select([key])
        place = results.predictions_place(folder, task)
        keys, columns = predictions.read(place)
        payload = record.payload
        try:
            found = results.score(task, columns)
        except (KeyError, IndexError, ValueError) as error:
            raise ArtifactError(
                f"{results.predictions_place(folder, task)}: not predictions of {key}: {error}"
            ) from error
        found["predictions"] = predictions.digest(keys, columns)
        report[key] = list(differences({name: payload[name] for name in found}, found))
        scores[key] = found["score"]
    stated = {name: evaluation.payload[name] for name in ("scores", "aggregates")}
    report["aggregates"] = list(differences(stated, {"scores": scores, "aggregates": chosen.aggregate(scores)}))
    return report


def command(argv: list[str]) -> int:
    """Print a line a task; exit code 1 if anything differs."""
    folder = folder_of(cli.settings(argv, Settings).run_dir)
    report = rescore(folder)
    for key, found in report.items():
        sys.stdout.write(f"{key:52} {'equal' if not found else 'DIFFERS  ' + '; '.join(found)}\n")
    wrong = sum(map(bool, report.values()))
    sys.stdout.write(f"{folder}: {'all equal' if not wrong else f'{wrong} differ'}\n")
    return int(wrong > 0)


if __name__ == "__main__":
    cli.main(command)
