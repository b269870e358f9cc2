"""Blocks are read from end to end before they are drawn from, by few reads."""

import os
from pathlib import Path

import numpy as np
import pytest

from harness import executor, order
from harness.order import Order
from harness.pool.sealed import SealedPool
from harness.reshard import ReshardedPool, reshard
from harness.subset import Subset
from harness.train import ahead
from harness.train.ahead import ReadAhead


class Disk:
    """What is read of each file, in order: its first byte and the byte behind the last."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reads: list[tuple[str, int, int]] = []
        self._preadv = os.preadv
        patch.setattr(ahead.os, "preadv", self._read)

    def _read(self, descriptor: int, buffers: list[memoryview], start: int) -> int:
        size = self._preadv(descriptor, buffers, start)
        self.reads.append((os.readlink(f"/proc/self/fd/{descriptor}"), start, start + size))
        return size


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(order, "BLOCK_SAMPLES", 20)
    monkeypatch.setattr(order, "BLOCK_BATCHES", 1)
    return Disk(monkeypatch)


def order_of(sealed: SealedPool, subset: Subset, seen: int) -> Order:
    return Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=8, samples_seen=seen)


def read(run: Order, source: SealedPool | ReshardedPool, positions: range) -> None:
    with ReadAhead(run, source, rows_of=source.rows if isinstance(source, ReshardedPool) else None) as reader:
        for position in positions:
            reader.reach(position)
            reader._thread.submit(int).result()  # it has come so far


def test_each_block_is_read_once_and_one_ahead(sealed: SealedPool, subset: Subset, disk: Disk) -> None:
    run = order_of(sealed, subset, 2 * len(subset))
    shards, end = run.block(0)
    read(run, sealed, range(end))
    following = run.block(end)[0]
    assert [path for path, *_ in disk.reads] == [sealed.shards[s] for s in (*shards, *following)]
    disk.reads.clear()
    read(run, sealed, range(run.samples_seen))
    # One read a shard and epoch, not one a sample.
    assert sorted(path for path, *_ in disk.reads) == sorted(2 * sealed.shards)


@pytest.mark.parametrize("resharded", [False, True])
def test_what_is_read_ahead_holds_the_samples(
    sealed: SealedPool, subset: Subset, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resharded: bool
) -> None:
    monkeypatch.setattr(ahead, "NEAR", 0)
    monkeypatch.setattr(ahead, "STEP", 700)
    source = reshard(sealed, subset, out=tmp_path / "out", executor=executor.local(1)) if resharded else sealed
    run = order_of(sealed, subset, len(subset))
    read(run, source, range(run.samples_seen))
    there = {path: np.zeros(os.path.getsize(path), dtype=bool) for path in source.shards}
    for path, start, end in disk.reads:
        there[path][start:end] = True
    wanted = set(map(tuple, subset.uids.tolist()))
    for shard, path in enumerate(source.shards):
        copies = set()
        for entry in source.index(shard):
            whole = all(
                there[path][entry[what] : entry[what] + entry[f"{what}_size"]].all() for what in ("image", "text")
            )
            uid = entry["uid"].item()
            # Of copies the first is the one that is fed.
            assert whole == (uid in wanted and uid not in copies)
            copies.add(uid)
    assert max(end - start for _, start, end in disk.reads) <= 700


def test_a_block_that_the_run_has_overtaken_is_left(sealed: SealedPool, subset: Subset, disk: Disk) -> None:
    run = order_of(sealed, subset, 2 * len(subset))
    with ReadAhead(run, sealed, rows_of=None) as reader:
        reader._thread.submit(lambda: [reader.reach(position) for position in range(run.samples_seen)]).result()
        reader._thread.submit(int).result()
    last = run.block(run.samples_seen - 1)[0]
    assert [path for path, *_ in disk.reads] == [sealed.shards[s] for s in last]


def test_other_processes_of_the_node_and_broken_tars(
    sealed: SealedPool, subset: Subset, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = order_of(sealed, subset, len(subset))
    gone = SealedPool.open(str(tmp_path), sealed.seal_dir)
    read(run, gone, range(run.samples_seen))
    monkeypatch.setenv("LOCAL_RANK", "1")
    read(run, sealed, range(run.samples_seen))
    assert disk.reads == []


def test_of_a_pool_in_a_store_nothing_is_looked_up(
    sealed: SealedPool, subset: Subset, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = SealedPool.open(f"local://{sealed.path}", sealed.seal_dir)
    looked: list[int] = []
    monkeypatch.setattr(SealedPool, "index", lambda self, shard: looked.append(shard))
    run = order_of(sealed, subset, len(subset))
    read(run, far, range(run.samples_seen))
    assert looked == [] and disk.reads == []
