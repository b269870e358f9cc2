"""What is fed depends on the order alone, and what cannot be read is named."""

import functools
import multiprocessing
import os
import shutil
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from serving import serving

from harness import executor, tars
from harness.errors import ArtifactError, InfraError
from harness.order import Order
from harness.pool.sealed import SealedPool
from harness.reshard import reshard
from harness.subset import Subset
from harness.train import stream
from harness.train.run import _preparer
from harness.train.stream import Batch, Preparer, Stream
from harness.train.world import STOP_SIGNALS, World, sparing_children, when_told_to_stop


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


def test_tars_of_other_samples_are_refused(sealed: SealedPool, subset: Subset, tmp_path: Path) -> None:
    for name, rows in (("fewer", np.arange(0, 40)), ("others", np.arange(2, len(sealed), 3))):
        other = Subset.of(np.asarray(sealed.uids[rows]))
        reshard(sealed, other, out=tmp_path / name, executor=executor.local(1))
        with pytest.raises(ArtifactError, match=rf"{name}/\d+\.tar: the sample [0-9a-f]{{32}} is not where"):
            feed(sealed, subset, shards=str(tmp_path / name))


@pytest.mark.parametrize("error", [RuntimeError, KeyError, struct.error])
def test_whatever_a_broken_picture_raises_names_the_sample(
    sealed: SealedPool, subset: Subset, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def decode(content: bytes) -> None:
        raise error("broken")

    monkeypatch.setattr(stream.augment, "decode", decode)
    with pytest.raises(ArtifactError, match=r"tar: sample \d+ cannot be read"):
        feed(sealed, subset)


@pytest.mark.slow
def test_loaders_outlive_the_signals_that_stop_training(sealed: SealedPool, subset: Subset) -> None:
    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=72)
    make = functools.partial(_preparer, sealed.path, sealed.seal_dir, None, "clip-tiny", 1)
    batches = Stream(order, make, world=world(), workers=1).batches(0)
    first = next(batches)
    for loader in multiprocessing.active_children():
        for number in (*STOP_SIGNALS, signal.SIGINT):
            os.kill(loader.pid or 0, number)
    assert_same([first, *batches], feed(sealed, subset))


@pytest.mark.slow
def test_loaders_outlive_signals_that_come_before_they_have_started(sealed: SealedPool, subset: Subset) -> None:
    told: set[int] = set()

    def tell() -> None:
        while len(told) < 2:
            for loader in multiprocessing.active_children():
                if loader.pid not in told:
                    for number in (*STOP_SIGNALS, signal.SIGINT):
                        os.kill(loader.pid or 0, number)
                    told.add(loader.pid or 0)

    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=72)
    make = functools.partial(_preparer, sealed.path, sealed.seal_dir, None, "clip-tiny", 1)
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    batches = list(Stream(order, make, world=world(), workers=2).batches(0))
    teller.join(10)
    assert len(told) == 2
    assert_same(batches, feed(sealed, subset))


def test_a_signal_that_comes_when_loaders_are_started_is_not_lost() -> None:
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with when_told_to_stop(lambda: came.append(1)):
        with sparing_children():
            os.kill(os.getpid(), signal.SIGTERM)
        assert came
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


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
    monkeypatch.setattr(stream, "READ_SAMPLES", 8)
    preparer = Preparer(sealed, uids=sealed.uids, rows_of=None, model_name="clip-tiny", seed=0)
    close = tars.Reader.close
    monkeypatch.setattr(tars.Reader, "close", lambda self: (opened.append(1), close(self))[1])
    preparer(0, np.arange(len(sealed)))
    assert len(opened) == 2  # four shards, two kept


def _die() -> Preparer:
    os._exit(3)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
def test_one_of_several_loaders_is_killed(sealed: SealedPool, subset: Subset, which: int) -> None:
    """As by a machine that has no memory left: the others must not keep the run from ending."""
    # Long enough: as long as the others bring results at every moment, nobody looks after the one.
    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=16 * 50_000)
    make = functools.partial(_preparer, sealed.path, sealed.seal_dir, None, "clip-tiny", 1)
    others = set(multiprocessing.active_children())
    batches = Stream(order, make, world=world(), workers=3).batches(0)
    next(batches)
    time.sleep(1)  # all have nothing to do, and one of them holds the lock of their queue
    loaders = sorted(set(multiprocessing.active_children()) - others, key=lambda loader: loader.pid or 0)
    os.kill(loaders[which].pid or 0, signal.SIGKILL)
    with pytest.raises(InfraError, match="loader process died"):
        deque(batches, maxlen=0)
    assert not set(loaders) & set(multiprocessing.active_children())


@pytest.mark.slow
def test_a_dead_loader_is_an_infra_error(sealed: SealedPool, subset: Subset) -> None:
    order = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=16, samples_seen=72)
    with pytest.raises(InfraError, match="loader process died"):
        list(Stream(order, _die, world=world(), workers=1).batches(0))


class SlowStore(ThreadingHTTPServer):
    """A loopback server that gives ranges of the files in a folder, the first when it is asked for a second."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path) -> None:
        self.folder, self.several = folder, threading.Event()
        self.at_once = self.most_at_once = self.asked = 0
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Ranges)


class _Ranges(SimpleHTTPRequestHandler):
    server: SlowStore

    def do_HEAD(self) -> None:
        self._answer(len(self._content()), b"", 200)

    def do_GET(self) -> None:
        with self.server.guard:
            self.server.asked += 1
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            if self.server.at_once > 1:
                self.server.several.set()
        self.server.several.wait(120)
        self.server.several.set()  # a reader that asks for one range after the other is not kept waiting again
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = self._content()[int(first) : int(last) + 1]
        self._answer(len(part), part, 206)
        with self.server.guard:
            self.server.at_once -= 1

    def _content(self) -> bytes:
        return (self.server.folder / self.path.lstrip("/")).read_bytes()

    def _answer(self, length: int, content: bytes, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(sealed: SealedPool) -> Iterator[SlowStore]:
    server = SlowStore(Path(sealed.path))
    with serving(server):
        yield server


@pytest.mark.slow
def test_a_slow_store_is_read_side_by_side_and_ahead(
    sealed: SealedPool, subset: Subset, store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples are asked for side by side, and the next while these are decoded."""
    monkeypatch.setattr(stream, "READ_SAMPLES", 24)
    asked_by_then: list[int] = []
    real = stream.augment.decode

    def decode(content: bytes) -> object:
        # The first picture is not decoded before the second lot has been asked for, if ever it is.
        patience = time.monotonic() + (120 if not asked_by_then else 0)
        while store.asked <= 24 and time.monotonic() < patience:
            time.sleep(0.01)
        asked_by_then.append(store.asked)
        return real(content)

    monkeypatch.setattr(stream.augment, "decode", decode)
    url = f"http://127.0.0.1:{store.server_port}"
    far = Preparer(
        SealedPool.open(url, sealed.seal_dir), uids=sealed.uids, rows_of=None, model_name="clip-tiny", seed=1
    )
    near = Preparer(SealedPool.open(sealed.path), uids=sealed.uids, rows_of=None, model_name="clip-tiny", seed=1)
    rows = np.arange(72)
    piece = far(0, rows)
    assert store.asked == 72
    assert store.most_at_once > 1
    assert asked_by_then[0] > 24
    assert torch.equal(piece.images, near(0, rows).images)


def test_a_tar_in_a_store_that_became_shorter_is_named(sealed: SealedPool, tmp_path: Path) -> None:
    shutil.copytree(sealed.path, tmp_path / "pool")
    path = tmp_path / "pool" / "shards" / "00000000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    far = SealedPool.open(f"local://{tmp_path}/pool", sealed.seal_dir)
    with pytest.raises(ArtifactError, match=r"00000000\.tar: ends before byte"):
        Preparer(far, uids=sealed.uids, rows_of=None, model_name="clip-tiny", seed=1)(0, np.arange(8))
