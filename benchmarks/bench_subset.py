"""Building, sorting, writing and checking subsets of 100 million uids; order checks and membership per core.

python benchmarks/bench_subset.py [rows=100000000] [folder=DIR]
"""

import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness import uid
from harness.subset import Subset

PIECE = 1 << 22


def random_uids(rows: int, seed: int) -> Iterator[uid.Uids]:
    """`rows` random uids in pieces."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, PIECE):
        size = min(PIECE, rows - start)
        yield np.frombuffer(rng.bytes(16 * size), dtype=uid.UID_DTYPE)


def build(folder: Path, rows: int) -> None:
    """A subset from unsorted pieces, as a method hands them over; generating them is not counted."""
    making = 0.0

    def pieces() -> Iterator[uid.Uids]:
        nonlocal making
        source = random_uids(rows, 0)
        while True:
            began = time.perf_counter()
            piece = next(source, None)
            making += time.perf_counter() - began
            if piece is None:
                return
            yield piece

    started = time.perf_counter()
    uid.sort_to_file(pieces(), folder / "subset.npy")
    seconds = time.perf_counter() - started - making
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"building, sorting and writing {rows:,} uids: {seconds:.1f} s (wanted 30), peak {peak:.2f} GB (wanted 4)")


def pool(folder: Path, rows: int) -> None:
    """A pool of twice the subset's size that holds it, sorted for looking up: the first command on a seal does so."""
    uid.save_pieces(folder / "order.npy", itertools.chain(random_uids(rows, 1), random_uids(rows, 0)))
    started = time.perf_counter()
    uid.sort_to_file(uid.blocks(uid.load(folder / "order.npy")), folder / "pool.npy")
    seconds = time.perf_counter() - started
    (folder / "order.npy").unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"sorting a pool of {2 * rows:,} uids for looking up, once a seal: {seconds:.1f} s, peak {peak:.2f} GB")


def check(folder: Path, rows: int) -> None:
    """That subset, checked against the pool."""
    started = time.perf_counter()
    subset = Subset.load(folder / "subset.npy")
    table = uid.load(folder / "pool.npy")
    missing = sum(int((uid.find(table, part) < 0).sum()) for part in uid.blocks(subset.uids))
    seconds = time.perf_counter() - started
    print(f"checking it against {len(table):,} uids: {seconds:.1f} s (wanted 30), {missing} missing")


def rates(folder: Path, rows: int) -> None:
    """Order checks and membership, in memory, one core."""
    subset = np.array(uid.load(folder / "subset.npy")[: min(rows, 20_000_000)])
    table = np.array(uid.load(folder / "pool.npy")[: 2 * len(subset)])
    for name, work, wanted in (
        ("order checks", lambda: uid.is_sorted(subset), 100),
        ("membership", lambda: uid.find(table, subset), 10),
    ):
        best = min(timed(work) for _ in range(3))
        print(f"{name}: {len(subset) / best / 1e6:,.0f} M uids/s on one core (wanted {wanted})")


def timed(work: object) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rows = int(settings.get("rows", 100_000_000))
    if "part" in settings:
        {"build": build, "pool": pool, "check": check, "rates": rates}[settings["part"]](Path(settings["folder"]), rows)
        return
    with tempfile.TemporaryDirectory(dir=settings.get("folder")) as folder:
        for part in ("build", "pool", "check", "rates"):
            command = [sys.executable, __file__, f"part={part}", f"folder={folder}", f"rows={rows}"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
