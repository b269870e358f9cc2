"""clip_score's rate and memory from one million rows to a hundred: a table and a plot.

    python benchmarks/bench_scaling.py [most=100000000] [plot=scaling.png]

The files hold only the two columns that are read (all columns of a hundred million rows would take 25 GB); the smaller
pools are the first files of the largest. Below each line stands the same for the pool as a run has it: sealed, a tenth
of its rows not downloaded; chosen from for the first time, and for any later one.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pools
import pyarrow as pa
import pyarrow.parquet as pq

from harness import Pool, executor
from harness.pool.sealed import SealedPool

SIZES = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000)
FILE_ROWS = 500_000


COLUMN = "clip_l14_similarity_score"
FIRST = "first-file"
"""Name of the pool of one file that a program chooses from before the clock runs."""


def make(folder: Path, rows: int) -> None:
    """Files of uids and scores."""
    (folder / "metadata").mkdir(parents=True)
    for number in range(rows // FILE_ROWS):
        rng = np.random.default_rng(number)
        scores = rng.normal(0.21, 0.05, FILE_ROWS).astype(np.float16).astype(np.float32)
        table = pa.table({"uid": pools.hex_column(FILE_ROWS, 16, rng), COLUMN: scores})
        pq.write_table(table, folder / "metadata" / f"{number:032x}.parquet")


def link(folder: Path, source: Path, rows: int) -> None:
    """A pool of the first `rows` rows of `source`."""
    (folder / "metadata").mkdir(parents=True)
    for path in sorted((source / "metadata").glob("*.parquet"))[: rows // FILE_ROWS]:
        os.link(path, folder / "metadata" / path.name)


def measure(folder: str, *, sealed: bool) -> dict[str, float]:
    """Threshold and selection of the best 30 %."""
    choose(Pool.open(str(Path(folder).parent / FIRST), executor=executor.local(2)))  # start-up is not counted
    seal = SealedPool.open(folder) if sealed else None
    pool = Pool.open(folder, sealed=seal, executor=executor.local(2))
    started = time.perf_counter()
    kept = choose(pool)
    return {"seconds": time.perf_counter() - started, "kept": kept, "peak_gb": peak() / 1e9}


def choose(pool: Pool) -> int:
    """How many rows the best 30 % are."""
    with tempfile.TemporaryDirectory(dir=pool.path) as scratch:
        pool = pool.resuming(Path(scratch))
        return len(pool.filter(within={COLUMN: (pool.threshold(COLUMN, keep=0.3), None)}))


def peak() -> int:
    """Most bytes that this program has held. (ru_maxrss begins with what the caller held when it started us.)"""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if "part" in settings:
        print(json.dumps(measure(settings["folder"], sealed=settings["part"] == "sealed")))
        return
    sizes = [size for size in SIZES if size <= int(settings.get("most", SIZES[-1]))]
    results = []
    with tempfile.TemporaryDirectory(dir=settings.get("folder")) as root:
        source = Path(root) / "source"
        make(source, sizes[-1])
        link(Path(root) / FIRST, source, FILE_ROWS)
        print(f"{'rows':>12} {'seconds':>8} {'M rows/s':>9} {'kept':>12} {'peak GB':>8} {'beyond uids':>12}")
        for rows in sizes:
            folder = Path(root) / str(rows)
            link(folder, source, rows)
            found = min((run("plain", folder) for _ in range(2)), key=lambda result: result["seconds"])
            beyond = found["peak_gb"] - found["kept"] * 16 / 1e9
            results.append((rows, rows / found["seconds"] / 1e6, found["peak_gb"], beyond))
            show(f"{rows:,}", rows, found)
            pools.seal(folder)
            for name in ("first", "later"):
                show(name, rows, run("sealed", folder))
    rates = [rate for _, rate, *_ in results]
    print(f"fastest over slowest: {max(rates) / min(rates):.2f} (wanted 1.5)")
    if "plot" in settings:
        draw(settings["plot"], results)


def run(part: str, folder: Path) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, f"part={part}", f"folder={folder}"]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def show(name: str, rows: int, found: dict[str, float]) -> None:
    """A line of the table."""
    print(
        f"{name:>12} {found['seconds']:8.2f} {rows / found['seconds'] / 1e6:9.2f} {found['kept']:12,} "
        f"{found['peak_gb']:8.2f} {found['peak_gb'] - found['kept'] * 16 / 1e9:12.2f}",
        flush=True,
    )


def draw(path: str, results: list[tuple[int, float, float, float]]) -> None:
    """Rate and memory over rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rate, memory) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    rows = [result[0] for result in results]
    rate.plot(rows, [result[1] for result in results], marker="o")
    rate.set(xscale="log", xlabel="rows", ylabel="million rows a second", ylim=(0, None))
    memory.plot(rows, [result[2] for result in results], marker="o", label="peak")
    memory.plot(rows, [result[3] for result in results], marker="o", label="peak less the uids kept")
    memory.set(xscale="log", xlabel="rows", ylabel="GB", ylim=(0, None))
    memory.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
