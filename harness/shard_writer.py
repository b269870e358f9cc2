"""Writing one shard from samples that lie in other tars: byte ranges are copied, headers rebuilt only where needed."""

import contextlib
import dataclasses
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO

import fsspec
import numpy as np
import numpy.typing as npt

from harness import tars
from harness.blur import Box, blurred_image
from harness.errors import ArtifactError, from_os_error
from harness.files import answering, atomic_path, is_remote
from harness.pool.sealed import digest_array, load_array, load_index, save_array
from harness.ranges import AHEAD, Copier, Reader
from harness.tars import SAMPLE_DTYPE, Samples

OFFSETS = ("start", "end", "image", "text", "json")


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring samples of one source tar."""

    tar: str
    index: str
    """Path of the source tar's index."""
    border: int
    """Pool row of the source tar's first sample."""
    first: int
    last: int
    """Which elements of rows.npy, last excluded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Writing:
    """One output shard; small, as it crosses to a worker process."""

    name: str
    tar: str
    index: str
    rows: str
    """Path of the array (N,) of the pool row of every sample of all output shards; repeated where one is copied."""
    pieces: tuple[Piece, ...]
    size: int
    """Bytes of the samples in their source tars."""
    blur: bool

    @property
    def samples(self) -> int:
        """Samples in this shard, copies counted."""
        return sum(piece.last - piece.first for piece in self.pieces)


def write_shard(job: Writing) -> tuple[int, str]:
    """Write a shard and, last, its index; returns the tar's size and the digest of the index.

    A shard that an earlier run finished is only looked at.
    """
    finished = _finished(job)
    if finished is not None:
        return finished
    with _new_file(job.tar) as file:
        copier = Copier(file.fileno())
        index = np.concatenate([_copy_piece(piece, job, copier) for piece in job.pieces])
        copier.append(tars.END)
    save_array(job.index, index)
    return copier.written, digest_array(index)


def _finished(job: Writing) -> tuple[int, str] | None:
    try:
        index = load_index(job.index)
    except ArtifactError:
        return None
    size = int(index["end"][-1]) + len(tars.END)
    if len(index) != job.samples or (not is_remote(job.tar) and not _has_size(job.tar, size)):
        return None
    return size, digest_array(index)


def _has_size(path: str, size: int) -> bool:
    return os.path.exists(path) and os.path.getsize(path) == size


@contextlib.contextmanager
def _new_file(target: str) -> Iterator[IO[bytes]]:
    """An unbuffered local file that becomes `target`, by renaming or uploading it, when the block ends well."""
    if not is_remote(target):
        with atomic_path(target) as temporary, open(temporary, "wb", buffering=0) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(buffering=0) as file:
        try:
            yield file
        except OSError as error:
            raise from_os_error(error, file.name) from error
        with answering(target):
            system, name = fsspec.core.url_to_fs(target)
            system.makedirs(os.path.dirname(name), exist_ok=True)
            system.put_file(file.name, name)


def _copy_piece(piece: Piece, job: Writing, copier: Copier) -> Samples:
    """Append the samples of `piece`; returns their index in the new tar."""
    rows = load_array(job.rows)
    wanted = np.asarray(rows[piece.first : piece.last])
    copy = np.arange(piece.first, piece.last) - np.searchsorted(rows, wanted)
    source = load_index(piece.index)[wanted - piece.border]
    # From a store a sample is fetched once for all its copies.
    whole = min(int((source["end"] - source["start"]).max()), AHEAD)
    with Reader(piece.tar, ahead=whole) as reader:
        boxes = [_boxes(reader, entry) for entry in source] if job.blur else []
        anew = copy > 0
        for i, found in enumerate(boxes):
            anew[i] |= bool(found)
        result = []
        for first, last in _stretches(anew):
            if anew[first]:
                result.append(_rebuild(reader, source[first], int(copy[first]), boxes[first] if boxes else [], copier))
            else:
                result.append(_verbatim(reader, source[first:last], copier))
    return np.concatenate(result)


def _stretches(anew: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Ranges of samples: every one that is built anew alone, the others as long as possible."""
    at = 0
    for i in np.flatnonzero(anew).tolist():
        if at < i:
            yield at, i
        yield i, i + 1
        at = i + 1
    if at < len(anew):
        yield at, len(anew)


def _verbatim(reader: Reader, source: Samples, copier: Copier) -> Samples:
    sizes = source["end"] - source["start"]
    shift = copier.written + np.cumsum(sizes) - sizes - source["start"]
    copier.copy(reader, tars.merge_ranges(source))
    index = source.copy()
    for name in OFFSETS:
        index[name] += shift
    return index


def _rebuild(reader: Reader, entry: np.void, copy: int, boxes: list[Box], copier: Copier) -> Samples:
    """One sample under a key of its own, with its boxes blurred."""
    index = np.zeros(1, dtype=SAMPLE_DTYPE)
    index["uid"], index["start"] = entry["uid"], copier.written
    for member in tars.members(reader, int(entry["start"]), int(entry["end"])):
        key, extension = tars.split_name(member.name)
        content = reader.exactly(member.content, member.size)
        field = next((name for name in ("image", "text", "json") if int(entry[name]) == member.content), None)
        if field == "image" and boxes:
            content, extension = blurred_image(content, boxes), "webp"
        copier.append(_header(f"{key}-{copy}.{extension}" if copy else f"{key}.{extension}", len(content)))
        if field is not None:
            index[field], index[f"{field}_size"] = copier.written, len(content)
        copier.append(content + bytes(-len(content) % tars.BLOCK))
    index["end"] = copier.written
    return index


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _boxes(reader: Reader, entry: np.void) -> list[Box]:
    """The face boxes that a sample's json states."""
    if not entry["json_size"]:
        return []
    try:
        boxes = json.loads(tars.read_json(reader, entry)).get("face_bboxes") or []
        return [[float(x) for x in box] for box in boxes if len(box) == 4]
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{reader.path}: json of sample {tars.key_of(reader, entry)} has no readable face_bboxes"
        ) from error
