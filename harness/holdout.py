"""Pairs taken out of the pool as a retrieval task of its own, for pools that no task set fits.

The pairs are the same for every run on the same sealed pool, so that methods can be compared on them. They are
copied to a task folder in the layout of the other retrieval sets. A run that holds pairs out is unofficial.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness import files, tars, uid
from harness.eval.suite import Suite, Task, load
from harness.pool.sealed import SealedPool
from harness.ranges import Reader
from harness.records import Record

KEY = "holdout"


def suite(pairs: int) -> Suite:
    """A suite of one task: image-text retrieval among the held-out pairs, recall@1 both ways; chance is 1 / pairs."""
    task = Task(
        key=KEY,
        name="held-out pairs",
        kind="retrieval",
        metrics="retrieval",
        samples=pairs,
        main_metric="mean_recall@1",
        chance=1 / pairs,
        scored=True,
        version=1,
    )
    return Suite(name=KEY, tasks={KEY: task})


def suite_of(evaluation: Record, records: Mapping[str, Record]) -> Suite:
    """The suite that an evaluation with these results names: one that ships, or that of held-out pairs."""
    name = evaluation.payload["suite"]
    if name != KEY:
        return load(name)
    return suite(max((record.payload["samples"] for record in records.values()), default=1))


def write(sealed: SealedPool, pairs: int, out: Path) -> None:
    """Copy the held-out pairs to `out/wds_holdout_test/`; nothing is done where they already lie."""
    folder = out / suite(pairs).tasks[KEY].folder / "test"
    done = folder / "nshards.txt"
    if done.exists():
        return
    with files.atomic_path(folder / "0.tar") as temporary, tarfile.open(temporary, "w") as tar:
        rows = sealed.holdout(pairs)
        shards = np.searchsorted(sealed.borders, rows, side="right") - 1
        for shard in np.unique(shards):
            index = sealed.index(int(shard))
            with Reader(sealed.shards[shard]) as reader:
                for row in rows[shards == shard] - sealed.borders[shard]:
                    image, caption = tars.read_sample(reader, index[row])
                    key = uid.to_hex(index["uid"][row : row + 1])[0]
                    _add(tar, f"{key}.jpg", image)
                    _add(tar, f"{key}.json", json.dumps({"captions": [caption]}).encode())
    files.write_bytes(done, b"1\n")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
