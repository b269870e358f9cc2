"""Byte ranges: read out of a local file or a URL, and appended to a local file."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import fsspec
import numpy as np
import numpy.typing as npt

from harness.errors import ArtifactError, from_os_error
from harness.files import answering, is_remote

Ranges = npt.NDArray[np.int64]
"""(N, 2): first byte and the byte behind the last, ascending."""

AHEAD = 8 << 20
"""A good read-ahead for a walk through a file in an object store, where a request takes tens of milliseconds."""

# A Copier reads and writes about this much at a time, in at most so many parts (Linux takes 1024 a call).
_GATHER = 1 << 20
_MAX_PARTS = 512
# Linux is asked to begin writing to the disk after so many bytes, so that little is left for the sync at the end.
_WRITE_BACK = 8 << 20


class Reader:
    """Byte ranges of a local file or URL; safe to share between threads."""

    def __init__(self, path: str | os.PathLike[str], *, ahead: int = 0) -> None:
        """Open `path`; from a URL at least `ahead` bytes are fetched at a time, and the last fetch is kept."""
        self.path = str(path)
        self.store: Any = None
        """Of a URL: the file system of fsspec that it lies in, and its name there."""
        self.name = ""
        self._handle = -1
        self._ahead = ahead
        self._kept = (0, b"")
        with answering(self.path):
            if is_remote(path):
                self.store, self.name = fsspec.core.url_to_fs(self.path)
                self.size = int(self.store.size(self.name))
            else:
                self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self.size = os.fstat(self._handle).st_size

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from offset `start`, fewer at the end of the file."""
        with answering(self.path):
            return self._fetch(start, size) if self.remote else self._pread(start, size)

    def exactly(self, start: int, size: int) -> bytes:
        """`size` bytes from offset `start`; ArtifactError if the file is shorter."""
        content = self.read(start, size)
        if len(content) != size:
            raise self.too_short(start + size)
        return content

    def many(self, ranges: Ranges) -> list[bytes]:
        """The content of neighbouring ranges, of a few megabytes in all; ArtifactError if the file is shorter."""
        if self.remote:
            low, high = int(ranges[0, 0]), int(ranges[-1, 1])
            span = self.exactly(low, high - low)
            return [span[start - low : end - low] for start, end in ranges.tolist()]
        try:
            starts, sizes = ranges[:, 0].tolist(), (ranges[:, 1] - ranges[:, 0]).tolist()
            parts = [os.pread(self._handle, size, start) for start, size in zip(starts, sizes, strict=True)]
        except OSError as error:
            raise from_os_error(error, self.path) from error
        if sum(map(len, parts)) != sum(sizes):
            raise self.too_short(int(ranges[-1, 1]))
        return parts

    def too_short(self, end: int) -> ArtifactError:
        """The error of a file that does not reach to byte `end`."""
        return ArtifactError(f"{self.path}: ends before byte {end}; it changed since it was sealed")

    def _pread(self, start: int, size: int) -> bytes:
        content = os.pread(self._handle, size, start)
        # One call gives at most 2 GiB and may give less than asked for.
        while len(content) < size and (more := os.pread(self._handle, size - len(content), start + len(content))):
            content += more
        return content

    def _fetch(self, start: int, size: int) -> bytes:
        kept_from, kept = self._kept
        if not kept_from <= start <= start + size <= kept_from + len(kept):
            end = min(start + max(size, self._ahead), self.size)
            kept_from, kept = (
                start,
                bytes(self.store.cat_file(self.name, start=start, end=end)) if start < end else b"",
            )
            if self._ahead:
                self._kept = kept_from, kept
        return kept[start - kept_from : start - kept_from + size]

    @property
    def deleted(self) -> bool:
        """True for an open local file that has no name any more."""
        return self._handle >= 0 and not os.fstat(self._handle).st_nlink

    @property
    def remote(self) -> bool:
        """True for a URL."""
        return self.store is not None

    def close(self) -> None:
        """Free the file; a second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fetch(parts: Sequence[tuple[Reader, int, int]]) -> list[bytes]:
    """Content of ranges (reader, start, end) of several files; those in object stores are asked for side by side.

    Raises ArtifactError if a file is shorter than that.
    """
    found = [b"" if reader.remote else reader.exactly(start, end - start) for reader, start, end in parts]
    stores = {id(reader.store): reader for reader, _, _ in parts if reader.remote}
    for store, any_of in stores.items():
        places = [i for i, (reader, _, _) in enumerate(parts) if reader.remote and id(reader.store) == store]
        names, starts, ends = zip(*((parts[i][0].name, *parts[i][1:]) for i in places), strict=True)
        with answering(any_of.path):
            contents = any_of.store.cat_ranges(list(names), list(starts), list(ends), on_error="raise")
        for i, content in zip(places, contents, strict=True):
            reader, start, end = parts[i]
            if len(content) != end - start:
                raise reader.too_short(end)
            found[i] = bytes(content)
    return found


class Copier:
    """Appends byte ranges to a local file: gathered, so that one write serves many small ranges."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.written = 0
        """Bytes appended so far."""
        self._begun = 0

    def copy(self, reader: Reader, ranges: Ranges) -> None:
        """Append these ranges of a file; ArtifactError if it is shorter."""
        ranges = split_ranges(ranges, _GATHER)
        first = 0
        reached = np.cumsum(ranges[:, 1] - ranges[:, 0])
        while first < len(ranges):
            begun = reached[first - 1] if first else 0
            last = int(np.searchsorted(reached, begun + _GATHER, side="right"))
            if reader.remote:  # one request for all, so not too far apart
                last = min(last, int(np.searchsorted(ranges[:, 1], ranges[first, 0] + AHEAD, side="right")))
            last = min(max(last, first + 1), first + _MAX_PARTS)
            self.append(*reader.many(ranges[first:last]))
            first = last

    def append(self, *parts: bytes) -> None:
        """Append `parts`, at most 1,024 of them."""
        size = sum(map(len, parts))
        done = os.writev(self.descriptor, parts)
        rest: Any = memoryview(b"".join(parts) if done < size else b"")[done:]
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]
        self.written += size
        if self.written - self._begun >= _WRITE_BACK:
            # Of pages that are not on the disk yet, this starts their writing and keeps them in memory.
            os.posix_fadvise(self.descriptor, self._begun, self.written - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self.written


def split_ranges(ranges: Ranges, longest: int) -> Ranges:
    """The same bytes in ranges no longer than `longest`."""
    sizes = ranges[:, 1] - ranges[:, 0]
    if not len(sizes) or sizes.max() <= longest:
        return ranges
    pieces = -(-sizes // longest)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(ranges[:, 0], pieces) + number * longest
    return np.stack([starts, np.minimum(starts + longest, np.repeat(ranges[:, 1], pieces))], axis=1)


def merged(ranges: Ranges, near: int) -> Ranges:
    """Ranges with ascending starts, made one where at most `near` bytes lie between them or they overlap."""
    ends = np.maximum.accumulate(ranges[:, 1])
    first = np.flatnonzero(np.concatenate([[True], ranges[1:, 0] > ends[:-1] + near]))
    return np.stack([ranges[first, 0], np.append(ends[first[1:] - 1], ends[-1])], axis=1)
