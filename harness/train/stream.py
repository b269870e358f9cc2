"""Feeds batches: reads samples by pool row through the tar index, decodes, crops and tokenizes them ahead of time.

What a batch holds depends on the order and the seed alone; loader workers only change who prepares it. A batch is
cut into pieces, each prepared by one worker, and pieces are put together in their order.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from harness import model, tars, uid
from harness.errors import ArtifactError, InfraError
from harness.files import is_remote, join
from harness.images import BROKEN
from harness.order import Order, Rows
from harness.train import augment
from harness.train.recipe import share
from harness.train.world import STOP_SIGNALS, World, sparing_children
from harness.uid import UID_DTYPE, Uids

PIECE = 256
"""Samples that one worker prepares at a time."""
READ_SAMPLES = 64
"""Samples that are read at a time, in a thread, while those read before are decoded."""
PATIENCE = 0.02
"""Seconds between two looks for samples that are not there yet."""
FILES_OPEN = 4 * READ_SAMPLES
UNREADABLE = (*BROKEN, Image.DecompressionBombError)


class Source(Protocol):
    """Shards of tars with an index each: the sealed pool itself, or what resharding made of it."""

    @property
    def shards(self) -> tuple[str, ...]: ...
    @property
    def borders(self) -> Rows: ...
    def index(self, shard: int) -> npt.NDArray[np.void]: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Some neighbouring samples of a batch, ready for the model."""

    images: torch.Tensor
    """(N, 3, S, S), uint8."""
    tokens: torch.Tensor
    """(N, L), int64."""
    uids: torch.Tensor
    """(N, 2), int64 holding the bits of the two words of each uid that was read."""


class Read(NamedTuple):
    """The bytes of one sample."""

    reader: tars.Reader
    entry: Any
    """Its row of the tar's index."""
    image: bytes
    caption: bytes


class Staged(NamedTuple):
    """Local copies of what the shards of a pool need from tars in a store, at the offsets that it has in those."""

    folder: str
    borders: Rows
    """(S + 1,) of the pool."""

    def shards(self, rows: Rows) -> Rows:
        """Shards (N,) of the pool that its rows (N,) lie in."""
        return np.searchsorted(self.borders, rows, side="right") - 1

    def home(self, shard: int) -> str:
        """The folder of all that shard number `shard` of the pool needs; it is there as soon as it is whole."""
        return join(self.folder, str(shard))

    def path(self, shard: int, tar: int) -> str:
        """The copy of what shard number `shard` of the pool needs from tar number `tar` of the source."""
        return join(self.home(shard), f"{tar}.tar")


def places_in(source: Source, rows_of: Rows | None, rows: Rows) -> Rows:
    """Where (N,) in `source` the samples of pool `rows` (N,) stand; `rows_of` as the Preparer has it."""
    if rows_of is None:
        return rows
    # Of a sample that is not there, its neighbour, which has another uid.
    return np.minimum(np.searchsorted(rows_of, rows), len(rows_of) - 1)


def tars_of(
    source: Source, rows_of: Rows | None, rows: Rows, *, remote: bool
) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
    """What of `source` holds the samples of pool `rows` (N,): numbers of tars, each with its rows of the index.

    Of those tars that lie in an object store, or of the others: nothing is looked up in the index for the rest.
    """
    places = np.unique(places_in(source, rows_of, rows))
    tar_of = np.searchsorted(source.borders, places, side="right") - 1
    for tar in np.unique(tar_of).tolist():
        if is_remote(source.shards[tar]) == remote:
            yield tar, source.index(tar)[places[tar_of == tar] - source.borders[tar]]


class Preparer:
    """Turns rows of the pool with these `uids` into a Piece.

    `rows_of` (M,) are the pool rows of the samples of `source`, ascending, where it has not all of them. Of tars in a
    store the `staged` copies are read, if there are any.
    """

    def __init__(
        self, source: Source, *, uids: Uids, rows_of: Rows | None, model_name: str, seed: int,
        staged: Staged | None = None,
    ) -> None:  # fmt: skip
        self._source, self._uids, self._rows_of, self._seed = source, uids, rows_of, seed
        self._staged = staged
        self._size = model.image_size(model_name)
        self._tokenizer = model.tokenizer(model_name)
        self._open: OrderedDict[tuple[int, int], tuple[tars.Reader, npt.NDArray[np.void]]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1)

    def __call__(self, start: int, rows: Rows) -> Piece:
        """The samples of pool rows (N,) that stand at positions start…start+N-1 of the run.

        Raises ArtifactError naming the shard and the sample if one cannot be read or is not the one that is wanted.
        """
        n = len(rows)
        uniform = augment.draws(self._seed, start, start + n).tolist()
        images = torch.empty((n, 3, self._size, self._size), dtype=torch.uint8)
        uids = np.empty((n, 2), dtype=np.uint64)
        captions = [""] * n
        places = places_in(self._source, self._rows_of, rows)
        on_disk = np.argsort(places, kind="stable")  # the way they lie there
        for i, (reader, entry, content, caption) in zip(
            on_disk.tolist(), self._read(places[on_disk], rows[on_disk]), strict=True
        ):
            try:
                captions[i] = caption.decode()
                images[i] = augment.crop(augment.decode(content), uniform[i], self._size)
            except UNREADABLE as error:
                raise ArtifactError(
                    f"{reader.path}: sample {_key(reader, entry)} cannot be read ({error}); the shard changed since "
                    "the pool was sealed, so bring it back or seal the pool again"
                ) from error
            uids[i] = tuple(entry["uid"])
        return Piece(images, self._tokenizer(captions), torch.from_numpy(uids.view(np.int64)))

    def _read(self, places: Rows, rows: Rows) -> Iterator[Read]:
        """Each sample, some of them read ahead."""
        cuts = [slice(start, start + READ_SAMPLES) for start in range(0, len(places), READ_SAMPLES)]
        coming: deque[Future[list[Read]]] = deque()
        for cut in cuts:
            coming.append(self._thread.submit(self._read_now, places[cut], rows[cut]))
            if len(coming) > 1:
                yield from coming.popleft().result()
        for last in coming:
            yield from last.result()

    def _read_now(self, places: Rows, rows: Rows) -> list[Read]:
        shards = np.searchsorted(self._source.borders, places, side="right") - 1
        homes = shards
        if self._staged is not None:
            homes = self._staged.shards(rows)
            self._close_deleted()
        samples = []
        for place, shard, home in zip(places.tolist(), shards.tolist(), homes.tolist(), strict=True):
            reader, index = self._shard(shard, home)
            samples.append((reader, index[place - int(self._source.borders[shard])]))
        uids = self._uids[rows]
        wrong = np.flatnonzero(np.array([entry["uid"] for _, entry in samples], dtype=UID_DTYPE) != uids)
        if len(wrong):
            raise ArtifactError(
                f"{samples[wrong[0]][0].path}: the sample {uid.to_hex(uids[wrong[:1]])[0]} is not where the index of "
                "its shard should have it; the pool was sealed or resharded anew since, so run the command again"
            )
        return [Read(*sample, *read) for sample, read in zip(samples, tars.read_samples(samples), strict=True)]

    def _shard(self, shard: int, home: int) -> tuple[tars.Reader, npt.NDArray[np.void]]:
        """Tar number `shard` of the source, for samples of shard `home` of the pool, and its index."""
        found = self._open.get((shard, home))
        if found is None:
            path = self._source.shards[shard]
            copied = self._staged is not None and is_remote(path)
            reader = tars.Reader(self._staged.path(home, shard) if self._staged and copied else path)
            reader.path = path  # what is wrong with a copy is wrong with the tar
            found = reader, self._source.index(shard)
            self._open[shard, home] = found
            if len(self._open) > FILES_OPEN:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end((shard, home))
        return found

    def _close_deleted(self) -> None:
        """Let go of the copies that the run is through with: a deleted file takes room on its disk while it is open."""
        for key in [key for key, (reader, _) in self._open.items() if reader.deleted]:
            self._open.pop(key)[0].close()


def _key(reader: tars.Reader, entry: npt.NDArray[np.void]) -> str:
    header = reader.read(int(entry["image"]) - tars.BLOCK, 100)
    return tars.split_name(header.split(b"\0")[0].decode(errors="replace"))[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's part of a global batch."""

    k: int
    pieces: list[Piece]

    def on(self, device: torch.device, *, slices: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Model input on `device`, in `slices` of nearly equal size: pictures (N, 3, S, S) float32, tokens (N, L)."""
        images = torch.cat([p.images.to(device, non_blocking=True) for p in self.pieces])
        tokens = torch.cat([p.tokens.to(device, non_blocking=True) for p in self.pieces])
        cuts = [share(0, len(images), parts=slices, index=i) for i in range(slices)]
        return [(augment.normalise(images[a:b]), tokens[a:b]) for a, b in cuts if b > a]

    @property
    def uids(self) -> torch.Tensor:
        """Uids (N, 2) of the samples that were read, int64 bits."""
        return torch.cat([p.uids for p in self.pieces])


class Stream:
    """This process's part of batches first…last of a run, prepared by `workers` processes, or one thread if 0.

    `make` builds the Preparer; it runs in each worker, so it must be picklable. `reached` is asked before each batch,
    with the first position of those not given yet, and its own first and the one behind its last: False if its samples
    are not there yet.
    """

    def __init__(
        self,
        order: Order,
        make: Callable[[], Preparer],
        *,
        world: World,
        workers: int,
        reached: Callable[[int, int, int], bool] = lambda given, start, stop: True,
    ) -> None:
        self._order, self._make, self._world, self._workers, self._reached = order, make, world, workers, reached

    def batches(self, first: int, *, told: Callable[[], bool] = lambda: False) -> Generator[Batch]:
        """Batches `first` to the last, in order; no more where it has to wait for samples and is `told` to stop.

        Several processes leave so before the first batch only: then none waits for another.
        """
        pin = self._world.device.type == "cuda"
        held, ours = multiprocessing.Pipe(duplex=False)
        executor = self._executor(held)
        ahead: deque[tuple[int, list[Future[Piece]]]] = deque()
        try:
            for k in range(first, self._order.batches):
                while not self._reached(self._order.span(ahead[0][0] if ahead else k)[0], *self._order.span(k)):
                    if ahead:
                        yield self._collect(*ahead.popleft(), pin=pin)
                    elif told() and (k == first or self._world.size == 1):
                        return
                    else:
                        time.sleep(PATIENCE)
                ahead.append((k, self._submit(executor, k)))
                if sum(len(futures) for _, futures in ahead) > 2 * max(self._workers, 1):
                    yield self._collect(*ahead.popleft(), pin=pin)
            while ahead:
                yield self._collect(*ahead.popleft(), pin=pin)
        except BrokenProcessPool as error:
            ours.close()  # ends the others, which may wait for ever for a lock that the dead one held
            raise InfraError(
                "a loader process died, probably for want of memory; use a smaller train.workers and run again"
            ) from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            held.close()
            ours.close()

    def _submit(self, executor: Executor, k: int) -> list[Future[Piece]]:
        start, stop = self._order.span(k)
        rows = self._order.batch(k)
        low, high = share(start, stop, parts=self._world.size, index=self._world.rank)
        cuts = range(low, high, PIECE if self._workers else max(high - low, 1))
        step = cuts.step
        # A loader is started when there is work for it, and takes seconds until it can ignore signals by itself.
        with sparing_children():
            return [executor.submit(_prepare, a, rows[a - start : min(a + step, high) - start]) for a in cuts]

    @staticmethod
    def _collect(k: int, futures: list[Future[Piece]], *, pin: bool) -> Batch:
        pieces = [future.result() for future in futures]
        if pin:
            pieces = [Piece(p.images.pin_memory(), p.tokens.pin_memory(), p.uids) for p in pieces]
        return Batch(k, pieces)

    def _executor(self, held: Connection) -> Executor:
        if not self._workers:
            return ThreadPoolExecutor(1, initializer=_start, initargs=(self._make,))
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=_start_process, initargs=(self._make, held)
        )


_local = threading.local()


def _start(make: Callable[[], Preparer]) -> None:
    _local.preparer = make()


def _start_process(make: Callable[[], Preparer], held: Connection) -> None:
    # The training process decides when to stop; a signal to the whole group must not end its loaders first.
    for number in (*STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(held,), daemon=True).start()
    torch.set_num_threads(1)
    _start(make)


def _end_with(held: Connection) -> None:
    """End this process when the training process closes its end, or is gone."""
    held.poll(None)
    os._exit(1)


def _prepare(start: int, rows: Rows) -> Piece:
    preparer: Preparer = _local.preparer
    with torch.inference_mode():
        piece = preparer(start, rows)
    return piece
