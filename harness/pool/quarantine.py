"""Repairing a pool: shards are rewritten without what cannot be used, their originals kept aside.

An original is linked into `<pool>/quarantine` before the clean tar takes its place, so nothing is lost whenever
the command is stopped.
"""

import filecmp
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np

from harness.files import atomic_path, write_bytes
from harness.pool.sealed import load_index
from harness.pool.shards import FEWER, Job, Sealed, promised
from harness.progress import say
from harness.ranges import Copier
from harness.records import read_json
from harness.tars import END, Reader, merge_ranges


def repair(pool: str, jobs: list[Job], found: list[Sealed], stray: list[str]) -> bool:
    """Rewrite every shard with unusable samples; True if there was something to do.

    `stray` names the shards of which only the stats.json is there.
    """
    todo = [(job, sealed) for job, sealed in zip(jobs, found, strict=True) if sealed.reasons]
    for job, sealed in todo:
        tar, stats, aside = Path(job.tar), Path(job.stats), Path(pool, "quarantine", f"{sealed.name}.tar")
        stats_aside = aside.with_name(f"{aside.stem}_stats.json")
        if not sealed.samples:
            _move(tar, aside)
            if stats.exists():
                _move(stats, stats_aside)
            continue
        if set(sealed.reasons) - {FEWER}:
            _rewrite(job, aside)
        if (promised(job) or 0) > sealed.samples:
            _link(stats, stats_aside)
            write_bytes(stats, json.dumps(read_json(stats) | {"successes": sealed.samples}).encode())
    for name in stray:
        _move(Path(pool, "shards", f"{name}_stats.json"), Path(pool, "quarantine", f"{name}_stats.json"))
    if todo or stray:
        say(f"{pool}: {len(todo)} shards repaired, their originals are in {pool}/quarantine")
    return bool(todo or stray)


def _rewrite(job: Job, aside: Path) -> None:
    """Replace the tar of `job` by one of its usable samples alone; the original becomes `aside`."""
    samples = np.asarray(load_index(f"{job.index}.npy"))
    with atomic_path(job.tar) as temporary:
        with Reader(job.tar) as reader, open(temporary, "wb", buffering=0) as file:
            copier = Copier(file.fileno())
            copier.copy(reader, merge_ranges(samples))
            copier.append(END)
        _link(Path(job.tar), aside)


def _link(original: Path, kept: Path) -> Path:
    """Link `original` to `kept`, or to a name with a number if another file has that name.

    It is copied where there are no links: shards may be a link to another disk.
    """
    kept.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        place = kept.with_name(f"{kept.stem}.{number}{kept.suffix}") if number else kept
        if not place.exists():
            try:
                os.link(original, place)
            except OSError:
                with atomic_path(place) as temporary:
                    shutil.copyfile(original, temporary)
            return place
        if place.samefile(original) or filecmp.cmp(place, original, shallow=False):
            return place
    raise AssertionError("itertools.count ends never")


def _move(original: Path, kept: Path) -> None:
    _link(original, kept)
    original.unlink()
