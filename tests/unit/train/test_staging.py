"""What a block needs of a store is fetched together, ahead and once, and the run never sees a difference."""

import errno
import functools
import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from s3_store import S3Store, store_at_s3

from harness import executor, order
from harness.config import RunConfig
from harness.errors import ArtifactError, ConfigError, HarnessError, InfraError
from harness.files import lock
from harness.order import Order
from harness.pool.sealed import SealedPool
from harness.reshard import ReshardedPool, reshard
from harness.subset import Subset
from harness.train import staging as module
from harness.train.run import _preparer, train
from harness.train.staging import NEAR, REQUEST, Staging, requests, staging
from harness.train.stream import Batch, Preparer, Staged, Stream
from harness.train.world import World

pytest.importorskip("s3fs")

SEEN = 4 * 74
"""Four passes over the subset of the tests."""


@pytest.fixture
def store(sealed: SealedPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store that holds the pool's tars at s3://bucket/pool; four blocks of a shard each to a pass over the subset."""
    monkeypatch.setattr(order, "BLOCK_SAMPLES", 18)
    monkeypatch.setattr(order, "BLOCK_BATCHES", 1)
    with store_at_s3(monkeypatch) as found:
        for path in sealed.shards:
            found.objects[f"pool/shards/{Path(path).name}"] = Path(path).read_bytes()
        yield found


@pytest.fixture
def far(sealed: SealedPool) -> SealedPool:
    return SealedPool.open("s3://bucket/pool", sealed.seal_dir)


def order_of(sealed: SealedPool, subset: Subset, batch_size: int = 8) -> Order:
    return Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=batch_size, samples_seen=SEEN)


def feed(
    pool: SealedPool, subset: Subset, cache_dir: Path | None, *, first: int = 0, workers: int = 0, batch_size: int = 8,
    shards: ReshardedPool | None = None, each: Callable[[Staging | None], object] = lambda copies: None,
) -> list[Batch]:  # fmt: skip
    """The batches of a run on `pool`, with or without copies; `each` is called when a batch is given."""
    world = World(rank=0, size=1, device=torch.device("cpu"))
    run, rows_of = order_of(pool, subset, batch_size), None if shards is None else shards.rows
    with staging(
        None if cache_dir is None else str(cache_dir), run, shards or pool, rows_of=rows_of, borders=pool.borders,
        out=Path("out"), world=world,
    ) as copies:  # fmt: skip
        make = functools.partial(
            _preparer, pool.path, pool.seal_dir, None if shards is None else shards.path, "clip-tiny", 1,
            None if copies is None else copies.staged.folder,
        )  # fmt: skip

        def reached(given: int, start: int, stop: int) -> bool:
            return copies is None or copies.reach(given, stop)

        stream = Stream(run, make, world=world, workers=workers, reached=reached)
        return [(batch, each(copies))[0] for batch in stream.batches(first)]


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert [batch.k for batch in found] == [batch.k for batch in expected]
    for a, b in zip(found, expected, strict=True):
        for name in ("images", "tokens", "uids"):
            left, right = (torch.cat([getattr(piece, name) for piece in batch.pieces]) for batch in (a, b))
            assert torch.equal(left, right)


def test_near_members_are_one_request_up_to_its_bound() -> None:
    half = REQUEST // 2
    wanted = [
        (512, 1_000),
        (1_000 + NEAR, 2_000 + NEAR),  # a gap of NEAR bytes is bridged
        (2_001 + 2 * NEAR, 2_002 + 2 * NEAR),  # one byte more is not
        (10 * REQUEST, 10 * REQUEST + half),
        (10 * REQUEST + half, 11 * REQUEST),  # just as long as a request may be
        (11 * REQUEST, 11 * REQUEST + 1),
        (11 * REQUEST + 1, 14 * REQUEST),  # a member that is larger than that is a request of its own
        (14 * REQUEST, 14 * REQUEST + 5),
    ]
    groups = requests(np.array(wanted))
    assert [list(map(tuple, group.tolist())) for group in groups] == [
        wanted[:2], wanted[2:3], wanted[3:5], wanted[5:6], wanted[6:7], wanted[7:],
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 2 * NEAR), st.integers(1, REQUEST + NEAR)), min_size=1, max_size=60))
def test_every_byte_is_in_a_request_and_none_is_longer_than_it_must_be(steps: list[tuple[int, int]]) -> None:
    """`steps`: the gap before each member, and its size."""
    ends = np.cumsum([gap + size for gap, size in steps])
    wanted = np.stack([ends - [size for _, size in steps], ends], axis=1)
    groups = requests(wanted)
    assert np.array_equal(np.concatenate(groups), wanted)  # each member whole, in one group, in its order
    for group in groups:
        assert len(group) == 1 or group[-1, 1] - group[0, 0] <= REQUEST
        assert (group[1:, 0] - group[:-1, 1] <= NEAR).all()
    for group, following in itertools.pairwise(groups):  # and there are no more groups than needed
        assert following[0, 0] - group[-1, 1] > NEAR or following[0, 1] - group[0, 0] > REQUEST


def test_the_same_batches_by_few_requests(
    sealed: SealedPool, far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path
) -> None:
    expected = feed(sealed, subset, None)
    assert_same(feed(far, subset, None), expected)
    assert [method for method, _ in store.asked].count("GET") == SEEN
    store.asked.clear()
    assert_same(feed(far, subset, tmp_path / "cache"), expected)
    # A shard's size and its one request, at most once for each block that it is in, however many samples that has.
    assert 2 * len(far.shards) <= len(store.asked) <= 2 * (SEEN // 18 + 1)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


@pytest.mark.slow
def test_loaders_and_a_resumed_run_read_the_copies(
    sealed: SealedPool, far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path
) -> None:
    assert_same(feed(far, subset, tmp_path, first=5, workers=2), feed(sealed, subset, None, first=5))
    assert len(store.asked) < SEEN / 4


def test_no_more_than_two_blocks_are_held(far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path) -> None:
    held: list[int] = []

    def look(copies: Staging | None) -> None:
        assert copies is not None
        # Whole or in the making.
        held.append(len({path.stem for path in Path(copies.staged.folder).iterdir()} - {".lock"}))

    # As in a real run, what is prepared ahead is less than a block.
    feed(far, subset, tmp_path, batch_size=2, each=look)
    assert max(held) == 2 < len(far.shards)


def test_a_deleted_copy_is_let_go(sealed: SealedPool, far: SealedPool, subset: Subset, tmp_path: Path) -> None:
    staged = Staged(str(tmp_path), far.borders)
    for shard, path in enumerate(sealed.shards):
        Path(staged.home(shard)).mkdir()
        shutil.copy(path, staged.path(shard, shard))
    preparer = Preparer(far, uids=far.uids, rows_of=None, model_name="clip-tiny", seed=1, staged=staged)

    def still_open() -> list[str]:
        files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit()
                 and os.path.lexists(f"/proc/self/fd/{fd}")]  # fmt: skip
        return [file for file in files if file.startswith(str(tmp_path))]

    preparer(0, np.arange(2))
    assert still_open() == [staged.path(0, 0)]
    shutil.rmtree(staged.home(0))
    preparer(0, far.borders[1:3])
    assert sorted(still_open()) == [staged.path(1, 1), staged.path(2, 2)]


def test_resharded_tars_in_a_store(
    sealed: SealedPool, subset: Subset, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.reshard.MAX_SAMPLES", 13)  # tars whose borders are not those of shards
    copied = reshard(sealed, subset, out="s3://bucket/out", index_dir=tmp_path / "index", executor=executor.local(1))
    store.asked.clear()
    assert_same(feed(sealed, subset, tmp_path / "cache", shards=copied), feed(sealed, subset, None))
    assert 2 * len(copied.shards) <= len(store.asked) < SEEN / 2


def test_training_gives_the_same_record_and_weights(
    sealed: SealedPool, far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path,
    make_config: Callable[..., RunConfig],
) -> None:  # fmt: skip
    near = train(make_config(), sealed=sealed, subset=subset, out=tmp_path / "near")
    config = make_config(train={"cache_dir": str(tmp_path / "cache")})
    assert train(config, sealed=far, subset=subset, out=tmp_path / "far").payload == near.payload
    assert 0 < len(store.asked) < 72 / 2
    # It belongs to no run: one without it finds this one done.
    assert train(make_config(), sealed=far, subset=subset, out=tmp_path / "far").payload == near.payload


def test_a_signal_while_nothing_is_there_yet_ends_the_run_at_once(
    far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path, make_config: Callable[..., RunConfig],
) -> None:  # fmt: skip
    config, left = make_config(train={"cache_dir": str(tmp_path / "cache")}), list[float]()

    def tell() -> None:
        wait_for(lambda: bool(store.asked))
        left.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    store.delay = 0.5  # a shard is a request for its size and one for its content: the first block takes a second
    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(InfraError, match="stopped at step 0 as asked; the same command goes on from there"):
        train(config, sealed=far, subset=subset, out=tmp_path / "out")
    assert time.monotonic() - left[0] < 2
    thread.join()
    assert len(store.asked) < 2 * len(far.shards)
    store.delay = 0
    assert train(config, sealed=far, subset=subset, out=tmp_path / "out").payload["steps"] == 5


def test_a_signal_while_a_later_block_is_copied_saves_what_was_done(
    sealed: SealedPool, far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path,
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    near = train(make_config(), sealed=sealed, subset=subset, out=tmp_path / "near")
    reach, config = Staging.reach, make_config(train={"cache_dir": str(tmp_path / "cache")})

    def never(self: Staging, given: int, stop: int) -> bool:
        if stop <= 48:
            return reach(self, given, stop)
        if given == 48 and not told:
            told.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    told: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(Staging, "reach", never)
        with pytest.raises(InfraError, match="stopped at step 3 as asked"):
            train(config, sealed=far, subset=subset, out=tmp_path / "far")
    record = train(config, sealed=far, subset=subset, out=tmp_path / "far")
    assert record.provenance["resumed_at"] == 3 and record.payload == near.payload


def test_pools_on_a_disk_and_draws_from_everywhere_ignore_it(
    sealed: SealedPool, far: SealedPool, subset: Subset, tmp_path: Path
) -> None:
    world = World(rank=0, size=1, device=torch.device("cpu"))
    everywhere = Order(sealed.uids, sealed.borders, subset.uids, seed=1, batch_size=8, samples_seen=16,
                       order="with_replacement")  # fmt: skip
    for pool, run in ((sealed, order_of(sealed, subset)), (far, everywhere)):
        with staging(
            str(tmp_path / "cache"), run, pool, rows_of=None, borders=pool.borders, out=tmp_path, world=world
        ) as found:
            assert found is None
    assert not (tmp_path / "cache").exists()


def test_what_killed_runs_left_is_deleted_and_what_others_hold_is_not(
    sealed: SealedPool, far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path
) -> None:
    names: list[str] = []
    expected = feed(far, subset, tmp_path, each=lambda copies: names.append(copies.staged.folder if copies else ""))
    own, left, live = Path(names[0]), tmp_path / f"{module._ours()}0-left", tmp_path / f"{module._ours()}0-live"
    for folder in (own, left, live):
        for shard in range(len(far.shards)):
            (folder / str(shard)).mkdir(parents=True)
            (folder / str(shard) / f"{shard}.tar").write_bytes(b"half")
    with lock(live):
        assert_same(feed(far, subset, tmp_path), expected)
    assert not own.exists() and not left.exists() and (live / "0" / "0.tar").exists()


def test_a_store_that_fails_in_the_middle(far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path) -> None:
    store.answers = 5
    given_before: list[int] = []
    with pytest.raises(InfraError, match=r"^s3://bucket/pool/shards/\d+\.tar: the store did not answer \(.*run the"):
        feed(far, subset, tmp_path, each=lambda copies: given_before.append(1))
    assert given_before and [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_tar_that_became_shorter_and_one_with_another_content(
    sealed: SealedPool, far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path
) -> None:
    key = "pool/shards/00000001.tar"
    whole = store.objects[key]
    entry = sealed.index(1)[0]  # a sample of the subset
    image = int(entry["image"])
    store.objects[key] = whole[:image] + bytes(int(entry["image_size"])) + whole[image + int(entry["image_size"]) :]
    with pytest.raises(ArtifactError, match=rf"^s3://bucket/{key}: sample 000000010000 cannot be read"):
        feed(far, subset, tmp_path)
    store.objects[key] = whole[: image + 5]
    with pytest.raises(ArtifactError, match=rf"^s3://bucket/{key}: ends before byte"):
        feed(far, subset, tmp_path)


def test_a_folder_that_cannot_take_the_copies_is_named(
    far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cases: list[tuple[str, type[HarnessError], str]] = [
        ("file", ArtifactError, "file: a file stands where a folder is needed"),
        ("s3://bucket/cache", ConfigError, "train.cache_dir=s3://bucket/cache: must be a folder on a disk"),
    ]
    for place, kind, said in cases:
        where = place if "://" in place else str(tmp_path / place)
        with (
            pytest.raises(kind, match=said),
            staging(where, order_of(far, subset), far, rows_of=None, borders=far.borders, out=tmp_path,
                    world=World(rank=0, size=1, device=torch.device("cpu"))),
        ):  # fmt: skip
            pass

    def full(*_: object) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "copy", full)
    with pytest.raises(InfraError, match=rf"^train\.cache_dir={tmp_path}/cache: the disk is full; make room"):
        feed(far, subset, tmp_path / "cache")


def test_other_processes_of_a_node_wait_for_the_one_that_copies(
    far: SealedPool, subset: Subset, store: S3Store, tmp_path: Path
) -> None:
    run, folder = order_of(far, subset), tmp_path / "staged"
    staged = Staged(str(folder), far.borders)
    with Staging(run, far, rows_of=None, staged=staged, copies=False) as waits:
        with lock(folder), Staging(run, far, rows_of=None, staged=staged, copies=True) as copies:
            assert not waits.reach(0, 16) and store.asked == []
            wait_for(lambda: copies.reach(0, 8))
            wait_for(lambda: waits.reach(0, 8))
            shards, _ = run.block(0)
            assert Path(staged.home(int(shards[0]))).is_dir()
        shutil.rmtree(folder)
        with pytest.raises(InfraError, match="the process that copies for this node ended"):
            wait_for(lambda: waits.reach(SEEN - 8, SEEN))
