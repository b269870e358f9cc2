"""`python -m harness.compare RUN_A RUN_B … [out=FILE.png]`: scores of several runs, task by task, with a chart.

A run is a run folder, an entry's folder or any folder with an evaluation.json. Beside each score stands half the
width of its 95 % interval; a star marks the best score where its interval lies above all others'.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness import cli, holdout
from harness.errors import ArtifactError, ConfigError
from harness.eval import data, predictions, results
from harness.eval.metrics import class_recalls
from harness.eval.suite import AGGREGATES, Suite
from harness.files import atomic_path
from harness.records import Json, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6fb3", "#d9822b", "#4d9a6a", "#8a63b0", "#b5534e", "#9aa3ad")
MOST = len(COLOURS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one evaluation says."""

    name: str
    folder: Path
    aggregates: dict[str, float | None]
    tasks: dict[str, Json]
    """Payload of each task's record, by key."""

    def score(self, key: str) -> float | None:
        """Main metric of the task, None if there is none."""
        payload = self.tasks.get(key)
        return None if payload is None else payload["score"]

    def interval(self, key: str) -> tuple[float, float]:
        """95 % interval of the task's score."""
        low, high = self.tasks[key]["interval"]
        return low, high


def evaluations(folder: Path) -> list[Path]:
    """Folders with an evaluation.json: `folder`, its eval/, or those of its seeds (an entry)."""
    for found in ([folder], [folder / "eval"], sorted(folder.glob("seed-*/eval"))):
        there = [place for place in found if (place / results.EVALUATION).exists()]
        if there:
            return there
    raise ArtifactError(f"{folder}: holds no {results.EVALUATION}; evaluate it first")


_SAME = ("suite", "model", "precision", "protocol", "definition of the suite")
"""What runs must share to be compared."""


def _same(evaluation: Record) -> tuple[Json, ...]:
    payload = evaluation.payload
    shared = tuple(payload[name] for name in ("suite", "model", "precision"))
    return (*shared, evaluation.protocol, evaluation.inputs["suite"])


def load(folders: list[Path]) -> tuple[Suite, list[Run]]:
    """The runs of all folders and their common suite; ConfigError if they are of different suites, models,
    precisions or protocols."""
    runs: list[Run] = []
    first: Record | None = None
    for folder in folders:
        for place in evaluations(folder):
            evaluation, records = results.read(place)
            first, chosen = first or evaluation, holdout.suite_of(evaluation, records)
            for what, one, other in zip(_SAME, _same(evaluation), _same(first), strict=True):
                if one != other:
                    raise ConfigError(f"{place}: {what} {one}, others {other}; not comparable")
            run = place.parent if place.name == "eval" else place
            name = run.parent.name if run.name == holdout.KEY else run.name
            tasks = {key: record.payload for key, record in records.items()}
            runs.append(Run(name=name, folder=place, aggregates=evaluation.payload["aggregates"], tasks=tasks))
    if first is None or len(runs) > MOST:
        raise ConfigError(f"{len(runs)} runs given; compare takes 1 to {MOST}")
    return chosen, runs


def best(runs: list[Run], key: str) -> int | None:
    """Index of the run whose interval lies above the intervals of all others; None if there is none."""
    known = [(run.interval(key), index) for index, run in enumerate(runs) if run.score(key) is not None]
    if len(known) < 2:
        return None
    (low, _), index = max(known)
    return index if all(high < low for (_, high), other in known if other != index) else None


def table(chosen: Suite, runs: list[Run]) -> str:
    """Aggregates, then every scored task: one column a run, and chance."""
    names = [run.name[-24:] for run in runs]
    lines = [f"{'':50}" + "".join(f"{name:>26}" for name in names) + f"{'chance':>9}"]
    for name in AGGREGATES:
        values = [run.aggregates[name] for run in runs]
        lines.append(f"{name:50}" + "".join(f"{'-' if v is None else f'{v:.4f}':>26}" for v in values))
    lines.append("")
    for task in chosen.scored:
        winner = best(runs, task.key)
        cells = [_cell(run, task.key, star=index == winner) for index, run in enumerate(runs)]
        chance = "" if task.chance is None else f"{task.chance:.3f}"
        lines.append(f"{task.key:50}" + "".join(f"{cell:>26}" for cell in cells) + f"{chance:>9}")
    return "\n".join(lines) + "\n"


def _cell(run: Run, key: str, *, star: bool) -> str:
    score = run.score(key)
    if score is None:
        return "-"
    low, high = run.interval(key)
    return f"{'* ' if star else ''}{score:.3f} ±{(high - low) / 2:.3f}"


def draw(chosen: Suite, runs: list[Run], out: Path) -> None:
    """Bars of every scored task and the aggregates, one colour a run, intervals as whiskers, chance as a tick."""
    from matplotlib.figure import Figure

    tasks = [task for task in chosen.scored if any(run.score(task.key) is not None for run in runs)]
    figure = Figure(figsize=(9, 0.16 * (len(runs) + 0.6) * (len(tasks) + 8) + 1), dpi=110, layout="constrained")
    top, below = figure.subplots(2, 1, height_ratios=[len(AGGREGATES), max(len(tasks), 1)])
    _bars(top, runs, list(AGGREGATES), [[run.aggregates[name] for name in AGGREGATES] for run in runs])
    scores = [[run.score(task.key) for task in tasks] for run in runs]
    _bars(below, runs, [task.key for task in tasks], scores, whiskers=True)
    for place, task in enumerate(tasks):
        if task.chance is not None:
            below.plot([task.chance] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1)
    below.set_xlabel("main metric (black tick: chance; whiskers: 95 % interval)")
    top.legend(fontsize=7, loc="lower right")
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _bars(
    axes: "Axes", runs: list[Run], names: list[str], scores: list[list[float | None]], *, whiskers: bool = False
) -> None:
    height = 0.8 / len(runs)
    for number, (run, values) in enumerate(zip(runs, scores, strict=True)):
        places = [place - 0.4 + (number + 0.5) * height for place in range(len(names))]
        lengths = [value if value is not None else 0.0 for value in values]
        axes.barh(places, lengths, height=height, color=COLOURS[number], label=run.name)
        if whiskers:
            for place, name, value in zip(places, names, values, strict=True):
                if value is not None:
                    axes.plot(run.interval(name), [place, place], color="#444444", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def classes(chosen: Suite, run: Run, key: str, data_dir: Path | None, most: int = 3) -> str:
    """The worst and best recalls of the classes of a task, by name where the task's data are at hand."""
    (task,) = chosen.select([key])
    place = results.predictions_place(run.folder, task)
    keys, columns = predictions.read(place)
    if key not in run.tasks or run.tasks[key]["predictions"] != predictions.digest(keys, columns):
        raise ArtifactError(f"{place}: not the predictions of a result that {results.EVALUATION} names; evaluate again")
    if task.classes is None or "top" not in columns:
        raise ConfigError(f"task {key} has no single list of classes")
    recalls = class_recalls(columns["top"][:, 0], columns["target"], task.classes)
    names = tuple(str(i) for i in range(task.classes))
    if data_dir is not None:
        names = data.read_words(data_dir / task.folder, task).classnames
    known = [int(i) for i in np.argsort(recalls, kind="stable") if not math.isnan(recalls[i])]
    shown = [f"{names[i] or i} {recalls[i]:.2f}" for i in known]
    return f"{run.name}: worst {', '.join(shown[:most])}; best {', '.join(reversed(shown[-most:]))}"


def command(argv: list[str]) -> None:
    """Print the table, write the chart; with task=KEY the worst and best classes of that task instead."""
    cli.offer_help(argv, __doc__)
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument and not Path(argument).exists())
    folders = [Path(argument) for argument in argv if "=" not in argument or Path(argument).exists()]
    unknown = sorted(set(options) - {"out", "task", "eval.data_dir"})
    if unknown or not folders or any(str(folder).startswith("-") for folder in folders):
        raise ConfigError(
            f"{f'unknown setting {unknown[0]!r}; ' if unknown else ''}usage: python -m harness.compare RUN_A RUN_B … "
            "[out=FILE.png] [task=KEY [eval.data_dir=DIR]]"
        )
    out = Path(options.get("out", "compare.png"))
    if out.suffix.lower() != ".png":
        raise ConfigError(f"setting out: the chart is a PNG, and {out.name} is no name of one; give out=FILE.png")
    chosen, runs = load(folders)
    if "task" in options:
        data_dir = Path(options["eval.data_dir"]) if "eval.data_dir" in options else None
        sys.stdout.writelines(classes(chosen, run, options["task"], data_dir) + "\n" for run in runs)
        return
    sys.stdout.write(table(chosen, runs))
    draw(chosen, runs, out)
    sys.stdout.write(f"chart: {out}\n")


if __name__ == "__main__":
    cli.main(command)
