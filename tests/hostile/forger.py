"""Spoiling an honest entry's folder.

Where a forger would mend the digests afterwards, so does a case (`Forger.mend`), so that the check which is meant to
find it has to.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import uid
from harness.config import Scale
from harness.eval import predictions
from harness.files import sha256_file
from harness.records import Record
from leaderboard.entries import kind_of

FIRST_TASK = "seed-0/eval/cifar10.json"
WEIGHTS = "seed-0/train/checkpoint.safetensors"


class Forger:
    """Edits an entry's folder and mends digests as one who knows the format would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, path: str = "entry.json") -> dict[str, Any]:
        """The JSON in a file of the entry."""
        return json.loads((self.folder / path).read_text())

    def write(self, value: Any, path: str = "entry.json") -> None:
        """Write JSON, or text as it is."""
        (self.folder / path).write_text(value if isinstance(value, str) else json.dumps(value))

    def edit(self, path: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the JSON of a file in place."""
        value = self.read(path)
        change(value)
        self.write(value, path)

    def payload(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the payload of entry.json."""
        self.edit("entry.json", lambda record: change(record["payload"]))

    def mend(self) -> None:
        """State the digests of the files as they are now, results of tasks in evaluation.json included."""
        for evaluation in self.folder.glob("seed-*/eval/evaluation.json"):
            self._mend_evaluation(evaluation)
        entry = self.read()
        for path in entry["inputs"]:
            place = self.folder / path
            if place.is_file() and not place.is_symlink():
                entry["inputs"][path] = self.digest(path)
        self.write(entry)

    def digest(self, path: str) -> str:
        """The digest that entry.json states for a file as it is now."""
        if kind_of(path) is None:
            return sha256_file(self.folder / path)
        return Record.model_validate(self.read(path)).digest

    def _mend_evaluation(self, place: Path) -> None:
        evaluation = json.loads(place.read_text())
        for record in place.parent.glob("*.json"):
            value = json.loads(record.read_text())
            if value.get("kind") == "task" and value["payload"]["key"] in evaluation["payload"]["results"]:
                evaluation["payload"]["results"][value["payload"]["key"]] = Record.model_validate(value).digest
        place.write_text(json.dumps(evaluation))


def put_uids(forger: Forger, uids: Any) -> None:
    uid.save(forger.folder / "uids.npy", uids)
    unique, counts = np.unique(uids, return_counts=True)
    digest, most = uid.digest(uids), int(counts.max()) if len(uids) else 0
    forger.edit(
        "subset.json", lambda r: r["payload"].update(uids=digest, size=len(uids), distinct=len(unique), max_count=most)
    )
    for seed in range(2):
        for name in ("train", "ledger"):
            forger.edit(f"seed-{seed}/train/{name}.json", lambda r: r["inputs"].update(subset=digest))
    repeats = 65536 / max(len(uids), 1)
    forger.payload(
        lambda p: p["subset"].update(
            uids=digest, size=len(uids), distinct=len(unique), max_count=most, mean_repeats=repeats
        )
    )
    forger.mend()


def put_column(forger: Forger, name: str, values: Any, *, task: str = "cifar10") -> None:
    """Another column in the predictions of a task, with the digest that they have now."""
    place = forger.folder / f"seed-0/eval/predictions/{task}.parquet"
    table, (keys, columns) = pq.read_table(place), predictions.read(place)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), place, compression="zstd")
    if name == "key":
        digest = predictions.digest(values.to_pylist(), columns)
    else:
        digest = predictions.digest(keys, columns | {name: np.array(values.to_pylist())})
    forger.edit(f"seed-0/eval/{task}.json", lambda r: r["payload"].update(predictions=digest))
    forger.mend()


def put_first(forger: Forger, name: str, values: Any, *, task: str) -> None:
    """Another first row of a column in the predictions of a task."""
    found = predictions.read(forger.folder / f"seed-0/eval/predictions/{task}.parquet")[1][name].copy()
    found[0] = values
    flat = pa.array(found.reshape(-1))
    column = flat if found.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, found.shape[1])
    put_column(forger, name, column, task=task)


def put_recipe(forger: Forger, *, batches: int, **values: int) -> None:
    """Another recipe, in every record that states it, and a ledger of as many batches as it gives."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(values))
        forger.edit(f"seed-{seed}/train/train.json", lambda r: r["payload"].update(values))
        forger.edit(
            f"seed-{seed}/train/ledger.json", lambda r: r["payload"].update(values, batches=["00000000"] * batches)
        )
    forger.mend()


def put_model(forger: Forger, name: str) -> None:
    """An entry of another model, unofficial and consistent in every record."""
    for seed in range(2):
        forger.edit(f"seed-{seed}/config.json", lambda r: r["payload"]["scale"].update(model=name))
        digest = Scale(**forger.read(f"seed-{seed}/config.json")["payload"]["scale"]).digest
        forger.edit(f"seed-{seed}/train/train.json", lambda r, digest=digest: r["payload"].update(scale=digest))
        for record in (forger.folder / f"seed-{seed}/eval").glob("*.json"):
            forger.edit(record.relative_to(forger.folder).as_posix(), lambda r: r["payload"].update(model=name))
    forger.payload(lambda p: p.update(unofficial=["scale.model"]))
    forger.mend()
