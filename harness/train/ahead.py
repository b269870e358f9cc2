"""Reads the shards of a block from end to end before its samples are drawn, each from its place.

The samples of a block stand in random order in its batches. A disk that seeks for each gives a hundred a second;
the same disk reads a shard from its first byte to its last at full speed. Nothing is kept here: what was read stays
in the memory that the operating system has to spare, for all processes of the node, and is read again if it was
needed otherwise. So this changes how long reading takes, and never what is read.
"""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np

from harness.errors import ArtifactError
from harness.order import Order, Rows
from harness.ranges import Ranges, merged, split_ranges
from harness.train.stream import Source, tars_of

NEAR = 256 << 10
"""Bytes between two wanted samples that are read along with them: no disk seeks in the time that takes."""
STEP = 1 << 20


class ReadAhead:
    """Reads the block that a run has come to, and the next, in a thread; `rows_of` as the Preparer has it.

    Tars in an object store are not read ahead: there is no memory that all processes share. staging.py copies them.
    """

    def __init__(self, order: Order, source: Source, *, rows_of: Rows | None) -> None:
        self._order, self._source, self._rows_of = order, source, rows_of
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._closed = threading.Event()
        self._buffer = memoryview(bytearray(STEP))
        self._end = self._asked = 0
        """First position behind the block that the run has come to, and behind the last that was asked for."""

    def reach(self, position: int) -> None:
        """The run has come to `position`; returns at once."""
        if position < self._end or os.environ.get("LOCAL_RANK", "0") != "0":  # one process reads for its node
            return
        shards, self._end = self._order.block(position)
        if self._asked < self._end:  # the block that a run begins in
            self._thread.submit(self._read, shards, self._end)
        self._asked = self._end
        if self._end < self._order.samples_seen:
            shards, self._asked = self._order.block(self._end)
            self._thread.submit(self._read, shards, self._asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _read(self, shards: Rows, end: int) -> None:
        for shard in shards.tolist():
            if self._too_late(end):
                return
            for tar, samples in tars_of(self._source, self._rows_of, self._order.shard_rows(shard), remote=False):
                starts = np.minimum(samples["image"], samples["text"])
                ends = np.maximum(samples["image"] + samples["image_size"], samples["text"] + samples["text_size"])
                # What is missing or broken is met again, and named, by the loader that wants a sample of it.
                with contextlib.suppress(OSError, ArtifactError):
                    self._through(self._source.shards[tar], merged(np.stack([starts, ends], axis=1), NEAR), end)

    def _through(self, path: str, ranges: Ranges, end: int) -> None:
        with open(path, "rb", buffering=0) as file:
            for start, stop in split_ranges(ranges, STEP).tolist():
                if self._too_late(end):
                    return
                os.preadv(file.fileno(), [self._buffer[: stop - start]], start)

    def _too_late(self, end: int) -> bool:
        """True if the run is through the block that ends at position `end`, or through altogether."""
        return self._closed.is_set() or end < self._end
