"""Copies what a run draws from tars in an object store to a disk of this node, a block of shards ahead of the loop.

A store takes tens of milliseconds for a request, and bills it. The samples of a block stand in random order in its
batches, so without this each is a request of its own; with it neighbours in a tar are fetched together. A copy is a
sparse file that has the wanted members where the tar has them, so whatever reads the tar reads the copy: this changes
where bytes come from, and never which.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, Self

import numpy as np

from harness import tars
from harness.errors import ConfigError, InfraError, from_os_error
from harness.files import is_remote, lock
from harness.order import Order, Rows
from harness.ranges import Ranges, Reader, fetch
from harness.train.stream import Source, Staged, tars_of
from harness.train.world import World

NEAR = 256 << 10
"""Bytes between two wanted members that are fetched along with them: they come sooner than another answer."""
REQUEST = 2 << 20
"""Bytes that are asked for at once, unless one member is larger."""
SIDE_BY_SIDE = 16
"""Requests on their way at the same time; their answers are what is held in memory."""
PATIENCE = 0.05
"""Seconds between two looks for what another process copies."""


def members(samples: tars.Samples) -> Ranges:
    """What training reads of `samples` (N,) of a tar: the (M, 2) bytes of pictures and captions, ascending."""
    # The header before a picture has the sample's name, for the message if it cannot be decoded.
    pictures = np.stack([samples["image"] - tars.BLOCK, samples["image"] + samples["image_size"]], axis=1)
    captions = np.stack([samples["text"], samples["text"] + samples["text_size"]], axis=1)
    found = np.concatenate([pictures, captions[captions[:, 0] < captions[:, 1]]])
    return found[np.argsort(found[:, 0], kind="stable")]


def requests(wanted: Ranges) -> list[Ranges]:
    """Members (M, 2) of a tar, ascending and apart, in groups: each is one request, from its first byte to its last.

    A gap in a group is at most NEAR bytes, and a group at most REQUEST bytes long, unless it is a single member.
    """
    cuts, first, before = list[int](), 0, 0
    for number, (start, end) in enumerate(wanted.tolist()):
        if number == 0 or start - before > NEAR or end - first > REQUEST:
            first = start
            cuts.append(number)
        before = end
    return [wanted[a:b] for a, b in zip(cuts, [*cuts[1:], len(wanted)], strict=True)]


def copy(reader: Reader, wanted: Ranges, file: IO[bytes]) -> Iterator[None]:
    """Put members (M, 2) of a tar into `file`, where the tar has them; gives way after each lot of requests.

    Raises ArtifactError if the tar is too short, InfraError if its store does not answer, OSError of the file.
    """
    groups = requests(wanted)
    file.truncate(reader.size)  # a caption of no bytes may be all that stands at the end
    for first in range(0, len(groups), SIDE_BY_SIDE):
        lot = groups[first : first + SIDE_BY_SIDE]
        contents = fetch([(reader, int(group[0, 0]), int(group[-1, 1])) for group in lot])
        for group, content in zip(lot, contents, strict=True):
            low = int(group[0, 0])
            for start, end in group.tolist():
                file.seek(start)
                file.write(memoryview(content)[start - low : end - low])
        yield


class _Block(NamedTuple):
    start: int
    """Its first position in the run."""
    shards: Rows
    end: int
    """The position behind its last."""
    whole: Future[None]
    """Done when all that the block needs is there."""


class Staging:
    """Keeps the block that a run draws from and the next in `staged`; `rows_of` as the Preparer has it.

    One process of a node copies, the others wait for what it does.
    """

    def __init__(self, order: Order, source: Source, *, rows_of: Rows | None, staged: Staged, copies: bool) -> None:
        self._order, self._source, self._rows_of, self.staged = order, source, rows_of, staged
        self._copies = copies
        self._blocks: list[_Block] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="staging")
        self._closed = threading.Event()

    def reach(self, given: int, stop: int) -> bool:
        """Whether the samples at positions given…stop-1 are there; what is before `given` is not needed any more.

        Never waits. Raises ArtifactError if a tar is too short, InfraError if its store does not answer or the disk
        takes no more.
        """
        self._move_on(given, stop)
        for block in self._blocks:
            if block.start < stop:
                if not block.whole.done():
                    return False
                block.whole.result()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _move_on(self, given: int, stop: int) -> None:
        """Begin the blocks up to `stop`, and one more where there is room, and delete those before `given`."""
        end = self._blocks[-1].end if self._blocks else given
        past = [block for block in self._blocks if block.end <= given]
        self._blocks = self._blocks[len(past) :]
        while end < stop or (len(self._blocks) < 2 and end < self._order.samples_seen):
            start, (shards, end) = end, self._order.block(end)
            self._blocks.append(_Block(start, shards, end, self._thread.submit(self._stage, shards)))
        if past and self._copies:
            # All processes are in one step, so none draws from these any more. What the next blocks have as well stays:
            # of a pool of one block everything.
            kept = np.concatenate([block.shards for block in self._blocks])
            for shard in np.setdiff1d(np.concatenate([block.shards for block in past]), kept).tolist():
                shutil.rmtree(self.staged.home(shard), ignore_errors=True)

    def _stage(self, shards: Rows) -> None:
        for shard in shards.tolist():
            home = Path(self.staged.home(shard))
            if not self._copies:
                self._await(home)
            elif not home.exists():
                with _named(home.parent):
                    self._copy(shard, home)
            if self._closed.is_set():
                return

    def _await(self, home: Path) -> None:
        while not home.exists():
            if not _is_held(home.parent):
                raise InfraError(f"{home.parent}: the process that copies for this node ended; run the command again")
            if self._closed.wait(PATIENCE):
                return

    def _copy(self, shard: int, home: Path) -> None:
        """Copy what the samples of shard number `shard` of the pool need; under the name `home` when it is whole."""
        new = home.with_suffix(".tmp")
        new.mkdir()
        for tar, samples in tars_of(self._source, self._rows_of, self._order.shard_rows(shard), remote=True):
            with Reader(self._source.shards[tar]) as reader, open(new / f"{tar}.tar", "wb") as file:
                for _ in copy(reader, members(samples), file):
                    if self._closed.is_set():
                        return
        new.rename(home)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """What the disk of `folder` refuses, as an error that names the setting."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, f"train.cache_dir={folder.parent}") from error


@contextlib.contextmanager
def staging(
    cache_dir: str | None, order: Order, source: Source, *, rows_of: Rows | None, borders: Rows, out: Path, world: World
) -> Iterator[Staging | None]:
    """What copies to `cache_dir` while the run in `out` goes on; None where it has nothing to copy.

    That is so without a `cache_dir`, of a `source` on disks, and in an order that draws from everywhere. `borders` are
    the pool's. Raises ConfigError if `cache_dir` is no local folder, ArtifactError or InfraError if it cannot be used.
    """
    if cache_dir is None or order.order != "block_shuffle" or not any(map(is_remote, source.shards)):
        yield None
        return
    if is_remote(cache_dir):
        raise ConfigError(f"setting train.cache_dir={cache_dir}: must be a folder on a disk of this machine")
    copies = os.environ.get("LOCAL_RANK", "0") == "0"
    # Every process of a node makes the same name, and two runs never do: one `out` is one run's at a time.
    run = hashlib.sha256(os.path.abspath(out).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"{_ours()}{os.environ.get('GROUP_RANK', '0')}-{run}"
    with _emptied(folder) if copies else contextlib.nullcontext():
        world.barrier()
        staged = Staged(str(folder), borders)
        with Staging(order, source, rows_of=rows_of, staged=staged, copies=copies) as found:
            yield found


def _is_held(folder: Path) -> bool:
    """True while the process that emptied `folder` lives: its lock is free when it has ended, however it ended."""
    if not folder.exists():
        return False
    try:
        with lock(folder, shared=True):
            return False
    except InfraError:
        return True


def _ours() -> str:
    return f"staged-{socket.gethostname()}-"


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Hold `folder`, empty at first and deleted at the end; what killed runs of this machine left beside it goes."""
    with contextlib.ExitStack() as stack:
        # The lock of all: so that nobody deletes what another has made and not locked yet.
        with lock(folder.parent, wait=True), _named(folder):
            for old in folder.parent.glob(f"{_ours()}*"):
                with contextlib.suppress(InfraError), lock(old):
                    shutil.rmtree(old)
            stack.enter_context(lock(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield
