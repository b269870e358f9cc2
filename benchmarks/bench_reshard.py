"""How fast a subset is resharded: 30 % of 100,000 samples of 5.4 KB, on two cores.

    python benchmarks/bench_reshard.py FOLDER

Compared with cp of the very tars that ours writes, and with the reference's way (webdataset reads every member, json
is parsed, kept samples are written anew, two processes; it never syncs). Like is compared with like: `ours` leaves all
on the disk, as the harness always does, so it stands against cp and sync of the copies; `ours, no sync` (fsync and the
early write-back made to do nothing, in this script alone) against bare cp. Everything is in the page cache before, the
disk is quiet before each round (os.sync), and the order of the commands moves on by one in every round. Ours includes
plan, index, ledger and records; cp includes the start of its processes, ours has none. On a file system that shares
blocks between copies (XFS, Btrfs) cp copies nothing, and the comparison says nothing.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import webdataset
from made_pool import make_pool

from harness import executor, uid
from harness.files import list_files
from harness.pool import shards as pool_shards
from harness.pool.seal import seal
from harness.reshard import reshard
from harness.subset import Subset

WORKERS = 2
KEEP = 0.3
OURS, OURS_BARE, THEIRS, CP, CP_SYNC = "ours", "ours, no sync", "reference's way", "cp", "cp, then sync"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="where the made pool is kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--reference-rounds", type=int, default=2, help="its way takes a minute a round")
    options = parser.parse_args()
    folder = make_pool(Path(options.folder))
    pool_shards.images.fault = lambda content: None  # type: ignore[assignment]  # the pictures are noise
    sealed = seal(str(folder), executor=executor.local(1))
    rng = np.random.default_rng(1)
    chosen = Subset.of(np.asarray(sealed.uids)[rng.random(len(sealed)) < KEEP])
    chosen.save(folder / "subset.npy")
    workers = executor.local(WORKERS)
    out, bare, copy, theirs = (folder / name for name in ("out", "bare", "copy", "theirs"))

    def ours() -> None:
        reshard(sealed, chosen, out=out, executor=workers)

    def ours_bare() -> None:
        with contextlib.ExitStack() as stack:
            for name in ("fsync", "posix_fadvise"):
                stack.enter_context(mock.patch.object(os, name, lambda *_: None))
            reshard(sealed, chosen, out=bare, executor=workers)

    def cp() -> None:
        copy.mkdir()
        subprocess.run(["cp", *list_files(kept, ".tar"), str(copy)], check=True)

    def cp_sync() -> None:
        cp()
        subprocess.run(["sync", *list_files(copy, ".tar")], check=True)

    def reference() -> None:
        theirs.mkdir()
        shards = list_files(folder / "shards", ".tar")
        context = multiprocessing.get_context("fork")
        jobs = [
            context.Process(
                target=_reference_worker,
                args=(shards[i::WORKERS], str(folder / "subset.npy"), str(theirs / f"{i}.tar")),
            )
            for i in range(WORKERS)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()

    shutil.rmtree(out, ignore_errors=True)
    ours()  # everything is in the page cache
    kept = folder / "kept"  # what cp copies; ours writes elsewhere
    shutil.rmtree(kept, ignore_errors=True)
    out.rename(kept)
    written = sum(os.path.getsize(path) for path in list_files(kept, ".tar"))
    commands = [(OURS, ours, out), (CP_SYNC, cp_sync, copy), (OURS_BARE, ours_bare, bare), (CP, cp, copy)]
    rounds: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        turn = number % len(commands)
        for name, function, target in commands[turn:] + commands[:turn]:
            rounds.setdefault(name, []).append(_seconds(function, target))
    if options.reference_rounds:
        rounds[THEIRS] = [_seconds(reference, theirs) for _ in range(options.reference_rounds)]
    print(f"{len(chosen):,} of {len(sealed):,} samples, {written / 1e6:,.0f} MB, {WORKERS} workers, "
          f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median (best) of {options.rounds}")  # fmt: skip
    middle = {name: statistics.median(wall for wall, _ in seconds) for name, seconds in rounds.items()}
    best = {name: min(seconds)[0] for name, seconds in rounds.items()}
    for name, wall in middle.items():
        busy = statistics.median(seconds for _, seconds in rounds[name])
        rates = (
            f"{len(sealed) / wall:10,.0f} pool samples/s  {written / wall / 1e6:7,.0f} MB/s  {busy:6.2f} processor s"
        )
        print(f"{name:16} {wall:7.3f} s ({best[name]:.3f})  {rates}")
    if THEIRS in middle:
        print(f"ours: {middle[THEIRS] / middle[OURS]:.1f} times as fast as the reference's way (goal 8)")
    for one, other in ((OURS, CP_SYNC), (OURS_BARE, CP)):
        print(f"{one}: {middle[other] / middle[one]:.0%} (best of each {best[other] / best[one]:.0%}) "
              f"of the speed of {other} (goal 70 %)")  # fmt: skip
    workers.close()
    sys.exit(0)


def _seconds(function: Callable[[], None], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds (its own and its ended children's) of one round into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    started, busy = time.monotonic(), _processor()
    function()
    return time.monotonic() - started, _processor() - busy


def _processor() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _reference_worker(shards: list[str], subset_file: str, target: str) -> None:
    """Read every member, parse every json, write the kept samples anew."""
    # A dict finds a uid faster than the reference's two searches in the array.
    subset = Subset.load(subset_file)
    wanted = dict(zip(uid.to_hex(subset.unique), subset.counts.tolist(), strict=True))
    with webdataset.TarWriter(target) as writer:
        pipeline = webdataset.DataPipeline(
            webdataset.SimpleShardList(shards), webdataset.tarfile_to_samples(handler=webdataset.warn_and_continue)
        )
        for one in pipeline:
            name = json.loads(one["json"])["uid"]
            for copy in range(wanted.get(name, 0)):
                writer.write({"__key__": f"{name}-{copy}", **{k: v for k, v in one.items() if not k.startswith("__")}})


if __name__ == "__main__":
    main()
