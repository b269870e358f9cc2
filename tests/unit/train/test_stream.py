"""What is fed depends on the order alone, and what cannot be read is named."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import executor, tars
from harness.errors import ArtifactError, InfraError
from harness.order import Order
from harness.pool.sealed import SealedPool
from harness.reshard import reshard
from harness.subset import Subset
from harness.train import stream
from harness.train.run import _preparer
from harness.train.stream import Batch, Preparer, Stream
from harness.train.world import World


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank=rank, size=size, device=torch.device("cpu"))


def feed(
    sealed: SealedPool, subset: Subset, *, workers: int = 0, rank: int = 0, size: int = 1, first: int = 0,
    shards: str | None = None,
) -> list[Batch]:  # fmt: skip
    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=72)
    make = functools.partial(_preparer, sealed.path, sealed.seal_dir, shards, "clip-tiny", 1)
    return list(Stream(order, make, world=world(rank, size), workers=workers).batches(first))


def flat(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pieces = [piece for batch in batches for piece in batch.pieces]
    return tuple(torch.cat([getattr(p, name) for p in pieces]) for name in ("images", "tokens", "uids"))  # type: ignore[return-value]


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    for left, right in zip(flat(a), flat(b), strict=True):
        assert torch.equal(left, right)


def test_uids_are_those_of_the_order(sealed: SealedPool, subset: Subset) -> None:
    batches = feed(sealed, subset)
    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=72)
    for k, batch in enumerate(batches):
        assert batch.k == k
        assert batch.uids.numpy().tobytes() == order.uids(k).tobytes()
    assert len(batches[-1].uids) == 8


@pytest.mark.slow
def test_workers_change_nothing(sealed: SealedPool, subset: Subset, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = feed(sealed, subset)
    monkeypatch.setattr(stream, "PIECE", 5)
    assert_same(feed(sealed, subset, workers=2), expected)


def test_a_resumed_stream_goes_on_where_it_was(sealed: SealedPool, subset: Subset) -> None:
    assert_same(feed(sealed, subset, first=3), feed(sealed, subset)[3:])


def test_processes_share_each_batch(sealed: SealedPool, subset: Subset) -> None:
    whole = feed(sealed, subset)
    parts = [feed(sealed, subset, rank=rank, size=3) for rank in range(3)]
    for k, batch in enumerate(whole):
        assert_same([part[k] for part in parts], [batch])


def test_resharded_tars_read_the_same(sealed: SealedPool, subset: Subset, tmp_path: Path) -> None:
    reshard(sealed, subset, out=tmp_path / "shards", executor=executor.local(1))
    assert_same(feed(sealed, subset, shards=str(tmp_path / "shards")), feed(sealed, subset))


def test_slices_are_the_batch_in_order(sealed: SealedPool, subset: Subset) -> None:
    batch = feed(sealed, subset)[0]
    slices = batch.on(torch.device("cpu"), slices=3)
    assert [len(images) for images, _ in slices] == [5, 5, 6]
    assert torch.equal(torch.cat([tokens for _, tokens in slices]), batch.pieces[0].tokens)
    assert slices[0][0].shape[1:] == (3, 32, 32)


def test_an_unreadable_sample_is_named(sealed: SealedPool, subset: Subset, tmp_path: Path) -> None:
    shutil.copytree(sealed.path, tmp_path / "pool")
    broken = SealedPool.open(str(tmp_path / "pool"))
    row = int(np.flatnonzero(broken.uids == subset.uids[0])[0])
    shard = int(np.searchsorted(broken.borders, row, side="right") - 1)
    entry = broken.index(shard)[row - int(broken.borders[shard])]
    with open(broken.shards[shard], "r+b") as file:
        file.seek(int(entry["image"]))
        file.write(bytes(int(entry["image_size"])))
    number = row - int(broken.borders[shard])
    with pytest.raises(ArtifactError, match=rf"{shard:08d}\.tar: sample {shard:08d}{number:04d}"):
        feed(broken, subset)
    Path(broken.shards[shard]).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"{shard:08d}.tar"):
        feed(broken, subset)


def test_few_files_stay_open(sealed: SealedPool, subset: Subset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    monkeypatch.setattr(stream, "FILES_OPEN", 2)
    preparer = Preparer(sealed, rows_of=None, model_name="clip-tiny", seed=0)
    close = tars.Reader.close
    monkeypatch.setattr(tars.Reader, "close", lambda self: (opened.append(1), close(self))[1])
    preparer(0, np.arange(len(sealed)))
    assert len(opened) == 2  # four shards, two kept


def _die() -> Preparer:
    import os

    os._exit(3)


@pytest.mark.slow
def test_a_dead_loader_is_an_infra_error(sealed: SealedPool, subset: Subset) -> None:
    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=72)
    with pytest.raises(InfraError, match="loader process died"):
        list(Stream(order, _die, world=world(), workers=1).batches(0))
