"""All 40 stand-in task sets in one folder, and the suite that states what is in them."""

from pathlib import Path
from typing import Any

import yaml

from harness import executor as executors
from harness.files import data_dir
from harness.tiny.folder import make_once
from harness.tiny.sets import make_set, makers

SEED = 0
"""Seed of the sets that score scale tiny."""
SUITE = "suite_tiny.yaml"


def make_tasks(out: str | Path, *, seed: int = SEED, workers: int | None = None) -> None:
    """Make the sets in the folder `out` (see sets), with suite_tiny.yaml; nothing is done if they are there already."""

    def build(draft: Path) -> None:
        keys = suite_order()
        executor = executors.local(workers)
        try:
            found = executor.map(make_set, [(str(draft), key, seed) for key in keys], name="task sets", unit="sets")
        finally:
            executor.close()
        (draft / SUITE).write_text(suite_text(dict(zip(keys, found, strict=True))))

    make_once(Path(out).absolute(), {"seed": seed}, build)


def suite_order() -> list[str]:
    """The 40 keys, in the order of the suite v1."""
    listed = yaml.safe_load((data_dir("tasks") / "suite_v1.yaml").read_text())["tasks"]
    known = makers()
    return [*[key for key in listed if key in known], *sorted(set(known) - set(listed))]


def suite_text(found: dict[str, dict[str, Any]]) -> str:
    """tasks/suite_tiny.yaml: key of each set to its name, samples, classes and chance."""
    lines = [
        "# The stand-in sets of scale tiny, as `python -m harness.make_tasks` makes them and writes this file.",
        "name: tiny",
        "tasks:",
    ]
    for key, facts in found.items():
        own = yaml.safe_load((data_dir("tasks") / f"{key.replace('/', '-')}.yaml").read_text())
        values = {"name": f"{own['name']} (stand-in)", **facts}
        told = ", ".join(f"{name}: {'null' if value is None else value}" for name, value in values.items())
        lines.append(f"  {key}: {{{told}}}")
    return "\n".join(lines) + "\n"
