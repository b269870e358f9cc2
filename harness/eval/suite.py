"""The suite as data: one YAML a task in tasks/, and suite_<name>.yaml that lists the tasks of a suite.

A suite file maps task keys to what differs from the task's own file:

    name: tiny
    tasks:
      cifar10: {name: CIFAR-10 (stand-in), samples: 500, classes: 8, chance: 0.125}

An entry that gives `samples` speaks of other data than the task's own file: its source is None.
This module and all it imports are free of torch.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from harness.config import validated
from harness.errors import ConfigError, unknown_name
from harness.files import data_dir
from harness.records import StrictModel, digest_of

Kind = Literal["classification", "retrieval", "winogavil", "wilds", "fairness"]
Metrics = Literal[
    "classification",
    "retrieval",
    "winogavil",
    "wilds_iwildcam",
    "wilds_camelyon17",
    "wilds_fmow",
    "fairness_dollar_street",
    "fairness_geode",
    "fairness_faces",
]
Group = Literal["imagenet", "shifts", "vtab", "retrieval"]

AGGREGATES: tuple[str, ...] = ("imagenet", "shifts", "vtab", "retrieval", "average")


def slug(key: str) -> str:
    """File name of a task: its key with `-` for `/`."""
    return key.replace("/", "-")


class Task(StrictModel):
    """One test set and how it is scored."""

    key: str
    """The reference's name, e.g. `vtab/cifar100`."""
    name: str
    """For people."""
    kind: Kind
    """How its data are read and its predictions made."""
    metrics: Metrics
    """The function of harness.eval.metrics that scores its predictions."""
    samples: int = Field(gt=0)
    """Images, or instances of WinoGAViL; another number of samples in the data is an error."""
    classes: int | None = Field(default=None, gt=1)
    """Lines of classnames.txt; None where a task has none or several class lists."""
    main_metric: str | None
    """The metric that is the task's score; None if the task is reported and not scored."""
    chance: float | None = Field(default=None, ge=0, le=1)
    """Chance accuracy (sum of squared class frequencies); None where it is not chance of the main metric's kind."""
    group: Group | None = None
    """The aggregate that the task belongs to beside `average`."""
    scored: bool
    metadata: dict[str, int | None] = Field(default_factory=dict)
    """Fields of the int64 vector in a sample's npy member, in order: how many values a field that makes groups has
    (0 to n - 1), None for the others."""
    source: str | None = None
    """Data set on the hub; None for stand-ins. The revision is in the lock file that the download writes."""
    version: int = Field(ge=1)
    """Raised when the data or the way of scoring changes; scores of different versions are not comparable."""

    @model_validator(mode="after")
    def _scored_tasks_have_a_score(self) -> Self:
        if self.scored != (self.main_metric is not None):
            raise ValueError("a scored task has a main_metric, and only a scored one")
        return self

    @property
    def slug(self) -> str:
        """File name of the task's results."""
        return slug(self.key)

    @property
    def folder(self) -> str:
        """Name of the task's folder in the data directory."""
        return f"wds_{slug(self.key.removeprefix('fairness/'))}_test"

    @property
    def digest(self) -> str:
        """sha256 of what determines the result, given the data: `name` and `source` do not."""
        return digest_of(self.model_dump(exclude={"name", "source"}))


class Suite(StrictModel):
    """The tasks of one protocol version."""

    name: str
    tasks: dict[str, Task]

    @property
    def digest(self) -> str:
        """sha256 over the digests of all tasks."""
        return digest_of({key: task.digest for key, task in self.tasks.items()})

    @property
    def scored(self) -> list[Task]:
        """The tasks with a main metric, in the suite's order."""
        return [task for task in self.tasks.values() if task.scored]

    def select(self, keys: Iterable[str] | None) -> list[Task]:
        """The tasks with these keys (None: all), in the suite's order; ConfigError with the nearest names."""
        wanted = set(self.tasks if keys is None else keys)
        for key in sorted(wanted):
            if key not in self.tasks:
                raise ConfigError(unknown_name("task", key, self.tasks))
        return [task for key, task in self.tasks.items() if key in wanted]

    def aggregate(self, scores: Mapping[str, float | None]) -> dict[str, float | None]:
        """The five aggregates of main metrics by task key, fractions in [0, 1].

        imagenet, shifts, vtab and retrieval are means over their groups, average over all scored tasks. One
        missing score makes its aggregates None: a mean over what happens to be there is not that aggregate.
        """
        members: dict[str, list[float | None]] = {name: [] for name in AGGREGATES}
        for task in self.scored:
            score = scores.get(task.key)
            if task.group is not None:
                members[task.group].append(score)
            members["average"].append(score)
        return {name: _mean(values) for name, values in members.items()}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # fsum: the same for every order of the tasks.
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a mapping")
    return values


def task_files() -> list[Path]:
    """The files of all tasks."""
    return sorted(path for path in data_dir("tasks").glob("*.yaml") if not path.name.startswith("suite_"))


def names() -> list[str]:
    """Names of the suites."""
    return sorted(path.stem.removeprefix("suite_") for path in data_dir("tasks").glob("suite_*.yaml"))


@cache
def load(name: str) -> Suite:
    """The suite of that name; ConfigError if there is none, or if a file of it does not fit."""
    path = data_dir("tasks") / f"suite_{name}.yaml"
    if not path.is_file():
        raise ConfigError(unknown_name("suite", name, names()))
    values = _read_yaml(path)
    known: dict[str, dict[str, Any]] = {}
    for file in task_files():
        task = _read_yaml(file)
        key = task.get("key")
        if not isinstance(key, str) or file.stem != slug(key):
            raise ConfigError(f"{file}: the file's name is not its key with `-` for `/`")
        known[key] = task
    tasks: dict[str, Task] = {}
    for key, changes in (values.get("tasks") or {}).items():
        if key not in known:
            raise ConfigError(f"{path}: {unknown_name('task', key, known)}")
        changes = changes or {}
        other_data = {"source": None} if "samples" in changes else {}
        tasks[key] = validated(Task, {**known[key], **other_data, **changes}, prefix=f"{path.name}: {key}.")
    suite = validated(Suite, {"name": values.get("name"), "tasks": tasks}, prefix=f"{path.name}: ")
    if values.get("name") != name:
        raise ConfigError(f"{path}: name is {values.get('name')!r}, the file's name says {name!r}")
    stated = values.get("scored", len(suite.scored))
    if stated != len(suite.scored):
        raise ConfigError(f"{path}: states {stated} scored tasks, its tasks have {len(suite.scored)}")
    return suite
