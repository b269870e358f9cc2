"""Tars of image-text pairs: where each member lies, and bytes out of the middle of a file.

A shard is an uncompressed tar whose members KEY.jpg (or jpeg, png, webp), KEY.txt and KEY.json stand side by side
(WebDataset's convention, as img2dataset writes it). Only headers and json members are read to index one; ustar,
PAX and GNU long names are understood. Nothing here decodes a picture.
"""

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from harness.ranges import AHEAD, Ranges, fetch
from harness.ranges import Reader as Reader
from harness.uid import UID_DTYPE

BLOCK = 512
NOTHING = bytes(BLOCK)
END = bytes(2 * BLOCK)
"""The mark at the end of every complete tar."""
RECORD = 20 * BLOCK
"""Tar programs fill a file with zeros up to a multiple of this."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_MEMBER = 256 << 20
"""Bytes of an image, txt or json; a sparse file of a stranger states terabytes that cost its sender nothing."""
TOO_LARGE = f"image, txt or json of more than {MAX_MEMBER >> 20} MB"
_MAX_DIGITS = 7
_MAX_HEADER = 1 << 20
"""Bytes of a PAX header or a long name: a path has at most 4096."""

SAMPLE_DTYPE = np.dtype(
    [("uid", UID_DTYPE), ("start", "<i8"), ("end", "<i8"), ("image", "<i8"), ("image_size", "<i8"),
     ("text", "<i8"), ("text_size", "<i8"), ("json", "<i8"), ("json_size", "<i8")]
)  # fmt: skip
"""One sample: `start` to `end` are the bytes of all its members with headers and padding; image, text and json are
the offsets of the members' content in the tar, with their sizes (json may be missing: 0, 0). All in bytes."""

Samples = npt.NDArray[np.void]
"""Shape (N,), dtype SAMPLE_DTYPE, in tar order."""

UidRule = Literal["own", "content"]
"""Where uids come from: the samples' json, or `content_uid`; by the second rule a sample needs no json."""

# Headers of small members stand close together: one read of this size usually finds several.
_WINDOW = 4096
# Members whose contents lie no further apart than this are fetched in one read.
_NEAR = 64 << 10
# Inside a JSON string these quotes would be escaped, so only a real key can match.
_UID = re.compile(rb'"uid"\s*:\s*"([0-9a-f]{32})"')
_SIZE = re.compile("[0-9]{1,18}")
_FILES = frozenset((b"0", b"\0", b"7"))
_LINKS = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))


class Fault(NamedTuple):
    """Something in a shard that cannot be used."""

    name: str
    """Key of the sample in its tar; empty for a fault of the tar as a whole."""
    uid: str
    """32 hex characters, or empty where the sample does not tell."""
    reason: str


class Member(NamedTuple):
    """One regular file in a tar."""

    name: str
    start: int
    """Offset of its first header (a long name has a header of its own)."""
    content: int
    size: int

    @property
    def end(self) -> int:
        """Offset behind its padding."""
        return self.content + -(-self.size // BLOCK) * BLOCK


class Entry(Protocol):
    """A row of an array of SAMPLE_DTYPE."""

    def __getitem__(self, name: str) -> Any: ...


class BrokenTarError(Exception):
    """A header that is none, or a file that ends too early; the message is the reason listed in the sealed record."""


# name, size, checksum, kind, magic, prefix
_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")


def _octal(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's base-256 for 8 GiB and more; ValueError if it is neither."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << 95) - 1)
    return int(field.rstrip(b" \0") or b"0", 8)


def _sum_fits(header: bytes, checksum: bytes) -> bool:
    """True if the bytes of a header, its checksum field counted as spaces, add up to what that field states."""
    # adler32 from 0 keeps the plain sum of the bytes (modulo 65521) in its low half, at C speed.
    total = (zlib.adler32(header, 0) & 0xFFFF) - sum(checksum) + 8 * ord(" ")
    try:
        return not (total - _octal(checksum)) % 65521
    except ValueError:
        return False


def _pax(content: bytes) -> dict[str, str]:
    """The key=value records of a PAX header."""
    found: dict[str, str] = {}
    content, at = content.rstrip(b"\0"), 0
    while at < len(content):
        length, space, _ = content[at : at + _MAX_DIGITS + 1].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(content) - at:
            raise BrokenTarError("PAX header is garbage")
        key, _, value = content[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(length)
    return found


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


class _Window:
    """A small read-ahead over a Reader, for the many short reads of a walk."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.start, self.content = reader, 0, b""

    def read(self, start: int, size: int) -> bytes:
        at = start - self.start
        if at < 0 or at + size > len(self.content):
            self.start, self.content, at = start, self.reader.read(start, max(size, _WINDOW)), 0
        return self.content[at : at + size]


def _walk(window: _Window, start: int, end: int, *, whole: bool) -> Iterator[Member]:
    at, first = start, start
    long_name: str | None = None
    long_size: int | None = None
    while at < end:
        header = window.read(at, BLOCK)
        if len(header) < BLOCK:
            raise BrokenTarError("tar is cut short")
        if header == NOTHING:
            # Zeros are also what a copy that lost blocks holds in its middle, or from some point on.
            rest = end - at
            if whole and (rest >= len(END) + RECORD or window.read(at, rest) != bytes(rest)):
                raise BrokenTarError("tar goes on behind its end mark")
            return
        short_name, size_field, checksum, kind, magic, prefix = _HEADER.unpack(header)
        try:
            size = _octal(size_field)
        except ValueError:
            size = -1
        if size < 0 or not _sum_fits(header, checksum):
            raise BrokenTarError("tar header is garbage")
        content = at + BLOCK
        if kind in _LINKS:
            size = 0  # whatever a link or folder states, no content follows
        elif long_size is not None and kind in _FILES:
            size = long_size
        at = content + (size + BLOCK - 1) // BLOCK * BLOCK
        if content + size > end:
            raise BrokenTarError("tar is cut short")
        if kind in (b"x", b"L") and size > _MAX_HEADER:
            raise BrokenTarError("tar header is garbage")
        if kind == b"x":
            pax = _pax(window.read(content, size))
            long_name = pax.get("path", long_name)
            long_size = int(pax["size"]) if _SIZE.fullmatch(pax.get("size", "")) else long_size
            continue
        if kind == b"L":
            long_name = _text(window.read(content, size))
            continue
        if kind in _FILES:
            name = long_name
            if name is None:
                name = _text(short_name)
                if prefix[0] and magic == b"ustar\0":
                    name = f"{_text(prefix)}/{name}"
            yield Member(name, first, content, size)
        if kind not in b"gK":
            first, long_name, long_size = at, None, None
    if whole:
        raise BrokenTarError("tar has no end mark: it was cut short or is still being written")


def members(reader: Reader, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """The regular files among the members from byte `start` to `end` (a sample's, or all of the tar).

    Raises BrokenTarError where the tar is not one any more; what came before is good.
    """
    return _walk(_Window(reader), start, reader.size if end is None else end, whole=end is None)


def split_name(name: str) -> tuple[str, str]:
    """Key and lower-case extension of a member: the name is cut at the first dot of its last part."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def _uid(text: bytes) -> str:
    """The uid in a json member, empty if there is none."""
    found = _UID.findall(text)
    if len(found) == 1:  # nearly always; parsing megabytes of EXIF would take a hundred times as long
        return str(found[0], "ascii")
    try:
        value = json.loads(text)
        uid = value["uid"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return uid if isinstance(uid, str) and re.fullmatch("[0-9a-f]{32}", uid) else ""


def content_uid(image: bytes, caption: bytes) -> str:
    """A uid (32 hex characters) made from a sample's content: 128 bits of sha256(sha256(image) and the caption)."""
    return hashlib.sha256(hashlib.sha256(image).digest() + caption).hexdigest()[:32]


class _Index:
    """Collects the samples and faults of one tar."""

    def __init__(self, window: _Window, uids: UidRule) -> None:
        self.window, self.own = window, uids == "own"
        self.uids: list[str] = []
        self.rows: list[tuple[int, ...]] = []
        self.faults: list[Fault] = []

    def add(self, key: str, group: list[tuple[str, Member]]) -> None:
        """One sample from its adjacent members (extension, member)."""
        by_extension = dict(group)
        images = [by_extension[e] for e in IMAGE_EXTENSIONS if e in by_extension]
        text, meta = by_extension.get("txt"), by_extension.get("json")
        uid, reason = "", ""
        large = any(member is not None and member.size > MAX_MEMBER for member in (*images, text, meta))
        if meta is not None and self.own and not large:
            uid = _uid(self.window.read(meta.content, meta.size))
        if large:
            reason = TOO_LARGE
        elif len(by_extension) < len(group) or len(images) > 1:
            reason = "more than one image, txt or json"
        elif not images:
            reason = "no image"
        elif text is None:
            reason = "no txt"
        elif self.own and meta is None:
            reason = "no json"
        elif self.own and not uid:
            reason = "json without a uid"
        elif not images[0].size:
            reason = "image of zero bytes"
        elif not _is_utf8(self.window.read(text.content, text.size)):
            reason = "txt is not UTF-8"
        if reason or text is None:
            self.faults.append(Fault(key, uid, reason))
            return
        if not self.own:
            image = self.window.reader.exactly(images[0].content, images[0].size)
            uid = content_uid(image, self.window.read(text.content, text.size))
        about = (meta.content, meta.size) if meta is not None else (0, 0)
        first, last = group[0][1], group[-1][1]
        self.uids.append(uid)
        self.rows.append((first.start, last.end, images[0].content, images[0].size, text.content, text.size, *about))

    def array(self) -> Samples:
        """What was collected, as (N,) of SAMPLE_DTYPE."""
        samples = np.zeros(len(self.rows), dtype=SAMPLE_DTYPE)
        words = np.frombuffer(bytes.fromhex("".join(self.uids)), dtype=">u8").reshape(-1, 2)
        samples["uid"]["f0"], samples["uid"]["f1"] = words[:, 0], words[:, 1]
        table = np.array(self.rows, dtype=np.int64).reshape(-1, 8)
        for column, name in enumerate(SAMPLE_DTYPE.names[1:]):  # type: ignore[index]
            samples[name] = table[:, column]
        return samples


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def index_tar(path: str | os.PathLike[str], *, uids: UidRule = "own") -> tuple[Samples, list[Fault]]:
    """The complete samples of a tar, in tar order, and what in it cannot be used.

    A sample is complete with one image, a txt of UTF-8 and, where `uids` are its own, a json that holds its uid;
    members of other extensions are ignored. Of a tar that is cut short or turns to garbage or zeros the samples before
    that point are used. Pictures are not decoded. Raises ArtifactError if there is no such file, InfraError if it
    cannot be read.
    """
    with Reader(path, ahead=AHEAD) as reader:
        window = _Window(reader)
        index = _Index(window, uids)
        key, group = "", list[tuple[str, Member]]()
        broken: str | None = None
        try:
            for member in _walk(window, 0, reader.size, whole=True):
                name, extension = split_name(member.name)
                if name != key and group:
                    index.add(key, group)
                    group = []
                key = name
                group.append((extension, member))
        except BrokenTarError as error:
            broken = str(error)
        if group:
            index.add(key, group)
        if broken:
            index.faults.append(Fault("", "", broken))
        return index.array(), index.faults


def read_sample(reader: Reader, entry: Entry) -> tuple[bytes, str]:
    """Image bytes and caption of one sample: a row of the tar's index.

    Raises ArtifactError if the tar is shorter than its index says.
    """
    image, caption = read_samples([(reader, entry)])[0]
    return image, caption.decode()


def read_samples(wanted: Sequence[tuple[Reader, Entry]]) -> list[tuple[bytes, bytes]]:
    """Image bytes and caption (UTF-8) of several samples; a store that answers slowly is waited for once."""
    spans = [_spans(entry) for _, entry in wanted]
    parts = iter(fetch([(reader, *span) for (reader, _), of_one in zip(wanted, spans, strict=True) for span in of_one]))
    found = []
    for (_, entry), of_one in zip(wanted, spans, strict=True):
        contents = [(low, next(parts)) for low, _ in of_one]
        found.append((_cut(contents[0], entry, "image"), _cut(contents[-1], entry, "text")))
    return found


def _spans(entry: Entry) -> list[tuple[int, int]]:
    """What is read of a sample: one range with its image and text, or one of each where they are far apart."""
    image, image_size = int(entry["image"]), int(entry["image_size"])
    text, text_size = int(entry["text"]), int(entry["text_size"])
    low, high = min(image, text), max(image + image_size, text + text_size)
    if high - low > image_size + text_size + _NEAR:  # megabytes of EXIF may stand between
        return [(image, image + image_size), (text, text + text_size)]
    return [(low, high)]


def _cut(span: tuple[int, bytes], entry: Entry, what: str) -> bytes:
    """The image or text of a sample out of a span that begins at byte `low` of its tar."""
    low, content = span
    start = int(entry[what]) - low
    return content[start : start + int(entry[f"{what}_size"])]


def key_of(reader: Reader, entry: Entry) -> str:
    """KEY of a sample: the name of its members without their extensions."""
    return split_name(next(members(reader, int(entry["start"]), int(entry["end"]))).name)[0]


def read_json(reader: Reader, entry: Entry) -> bytes:
    """Content of a sample's json member."""
    return reader.exactly(int(entry["json"]), int(entry["json_size"]))


def merge_ranges(samples: Samples) -> Ranges:
    """The bytes of `samples` as ranges of their tar, touching ones as one."""
    starts, ends = samples["start"], samples["end"]
    breaks = starts[1:] != ends[:-1]
    first, last = np.concatenate([[True], breaks]), np.concatenate([breaks, [True]])
    n = len(samples)
    return np.stack([starts[first[:n]], ends[last[:n]]], axis=1)
