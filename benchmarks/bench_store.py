"""Training's loader on a pool in an object store, with and without train.cache_dir: requests a sample and samples/s.

    python benchmarks/bench_store.py

The store is one of the tests, on loopback, and takes 30 ms for a request about an object; it gives as many answers at
once as it is asked for. Pictures are small, so that requests and not decoding are what is measured. One pass over a
random subset of the pool, in one block; the copies are made within the time that counts, and deleted before the next
round. Rounds alternate; the best of each counts.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pool_folders import picture, sample, write_tar
from s3_store import S3Store, store_at_s3

from harness import executor
from harness.order import Order
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.subset import Subset
from harness.train.run import _preparer
from harness.train.staging import staging
from harness.train.stream import Stream
from harness.train.world import World


def write_tars(root: Path, samples: int, per_tar: int = 1000) -> None:
    """Tars of JPEGs of noise, 64 pixels wide and some 4 kB."""
    for shard, first in enumerate(range(0, samples, per_tar)):
        rows = range(min(per_tar, samples - first))
        chosen = [sample(row, shard=shard, image=picture(first + row, size=64)) for row in rows]
        write_tar(root / "shards" / f"{shard:08d}.tar", chosen)


def measure(store: S3Store, far: SealedPool, subset: Subset, cache_dir: str | None) -> tuple[float, float]:
    """Requests a sample and samples a second of one pass."""
    world = World(rank=0, size=1, device=torch.device("cpu"))
    order = Order(far.uids, far.borders, subset.uids, seed=0, batch_size=256, samples_seen=len(subset))
    store.asked.clear()
    started = time.perf_counter()
    with staging(cache_dir, order, far, rows_of=None, borders=far.borders, out=Path("out"), world=world) as copies:
        folder = None if copies is None else copies.staged.folder
        make = functools.partial(_preparer, far.path, far.seal_dir, None, "clip-tiny", 0, folder)
        reached = (
            (lambda given, start, stop: True)
            if copies is None
            else (lambda given, start, stop: copies.reach(given, stop))
        )
        with contextlib.closing(Stream(order, make, world=world, workers=0, reached=reached).batches(0)) as batches:
            seen = sum(len(batch.uids) for batch in batches)
    return len(store.asked) / seen, seen / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000, help="of the pool")
    parser.add_argument("--keep", type=float, default=0.3, help="share of them in the subset")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds a request")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        write_tars(root / "pool", chosen.samples)
        near = seal(str(root / "pool"), executor=executor.local(1))
        kept = np.random.default_rng(1).random(len(near)) < chosen.keep
        subset = Subset.of(np.asarray(near.uids)[kept])
        with store_at_s3(patch) as store:
            for path in near.shards:
                store.objects[f"pool/shards/{Path(path).name}"] = Path(path).read_bytes()
            store.delay = chosen.delay
            far = SealedPool.open("s3://bucket/pool", near.seal_dir)
            kinds = {"each sample by itself": None, "train.cache_dir": str(root / "cache")}
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
            for _ in range(chosen.rounds):
                for name, place in kinds.items():
                    found[name].append(measure(store, far, subset, place))
    for name, rounds in found.items():
        print(f"{name:22} {rounds[0][0]:8.4f} requests a sample")
        rates = [rate for _, rate in rounds]
        print(f"{name:22} {max(rates):8.0f} samples/s (runs: {', '.join(f'{rate:.0f}' for rate in rates)})")


if __name__ == "__main__":
    main()
