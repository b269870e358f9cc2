"""One shard of the generated pool: what its samples show, what their captions say, and the files.

FAULTS says which part of the pool has which fault of web data. Which sample has which is told by `imagine` alone and
stands in no file of the pool.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.tiny import captions
from harness.tiny.words import COLOUR_NAMES, SCENE_NAMES, THINGS
from harness.tiny.world import FACE, SIDE, SYMBOLS, THING, Factors, render, sample, stream

FAULTS: dict[str, float] = {
    "none": 0.33,
    "careless": 0.06,  # one fact of the caption is wrong
    "swapped": 0.22,  # the right caption of another picture
    "boilerplate": 0.12,
    "junk": 0.07,
    "foreign": 0.07,  # a right caption that is not English
    "duplicate": 0.05,  # one of a few pictures that stand in the pool many times, hardly changed
    "text": 0.03,  # nothing but the caption's words, drawn into the picture
    "tiny": 0.03,  # an original of a few pixels
    "extreme": 0.02,  # an original many times longer than wide
}
"""Name of each fault to its share of the pool."""
FAULT_NAMES = tuple(FAULTS)

SHARD_SAMPLES = 4096
_LONGEST = 160
_QUALITY = 92
_BLOCK = 512
"""Pictures rendered at a time."""


@dataclass(frozen=True)
class Spec:
    """What one shard is made from."""

    folder: str
    """The pool's folder."""
    seed: int
    stream: str
    """`pool` or `trusted`: streams never give the same picture."""
    shard: int
    start: int
    """Index of the first sample in the pool."""
    samples: int


def uid_of(seed: int, name: str, index: int) -> str:
    """The uid (32 hex characters) of sample `index` of stream `name`."""
    return hashlib.sha256(f"tiny/{name}/{seed}/{index}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Samples:
    """Some samples before they are drawn: N rows each."""

    rows: Factors
    captions: list[str]
    fault: npt.NDArray[np.int64]
    """(N,) index into FAULT_NAMES."""
    size: npt.NDArray[np.int64]
    """(N, 2) width and height as the web states them."""


def imagine(spec: Spec) -> Samples:
    """The samples of one shard: factors, captions, faults and stated sizes."""
    rng = stream(spec.stream, spec.seed, spec.shard)
    n = spec.samples
    rows = sample(rng, n)
    draws = rng.random((n, captions.DRAWS))
    fault = np.searchsorted(np.cumsum(list(FAULTS.values()))[:-1], rng.random(n), side="right")
    if spec.stream == "trusted":
        fault[:] = 0
    size = _stated_sizes(rng, n)

    def of(name: str) -> npt.NDArray[np.int64]:
        return np.flatnonzero(fault == FAULT_NAMES.index(name))

    at = of("duplicate")
    rows[at] = _repeated(spec, rng, len(at))
    draws[at] = np.round(draws[at], 0) * 0.9
    told = captions.describe(rows, draws)
    draws[of("careless"), 8] = 0  # the colour is told, as it may be what is wrong
    _put(told, of("careless"), captions.describe(_misread(rows[of("careless")], rng), draws[of("careless")]))
    swapped = of("swapped")
    _put(told, swapped, [told[i] for i in np.roll(swapped, 1)])
    _put(told, of("boilerplate"), captions.boilerplate(draws[of("boilerplate")]))
    _put(told, of("junk"), captions.junk(draws[of("junk")]))
    rows["kind"][of("foreign")] = 0
    rows["count"][of("foreign")] = 1
    rows["thing2"][of("foreign")] = -1
    _put(told, of("foreign"), captions.foreign(rows[of("foreign")], draws[of("foreign")]))
    at = of("text")
    rows["count"][at], rows["kind"][at], rows["scene"][at], rows["night"][at] = 0, 0, 0, 0
    at = of("tiny")
    size[at] = rng.integers(16, 90, (len(at), 2))
    at = of("extreme")
    short = rng.integers(200, 400, len(at))
    ratio = 3.2 + 4 * rng.random(len(at))
    upright = rng.random(len(at)) < 0.5
    long = (short * ratio).astype(np.int64)
    size[at] = np.stack([np.where(upright, short, long), np.where(upright, long, short)], 1)
    return Samples(rows, told, fault, size)


def _put(told: list[str], at: npt.NDArray[np.int64], texts: list[str]) -> None:
    for i, text in zip(at.tolist(), texts, strict=True):
        told[i] = text


def _stated_sizes(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
    """(n, 2) widths and heights as web pictures have them; about a tenth has a shortest side below 200."""
    short = np.array([120, 180, 240, 300, 375, 480, 600, 768, 1080])
    odds = np.cumsum([0.04, 0.06, 0.12, 0.17, 0.16, 0.16, 0.13, 0.09])
    ratio = np.array([1.0, 1.0, 1.25, 4 / 3, 1.5, 16 / 9, 2.4])[rng.integers(0, 7, n)]
    side = short[np.searchsorted(odds, rng.random(n), side="right")] + rng.integers(0, 19, n)
    long = np.round(side * ratio).astype(np.int64)
    upright = rng.random(n) < 0.35
    return np.stack([np.where(upright, side, long), np.where(upright, long, side)], 1)


def _repeated(spec: Spec, rng: np.random.Generator, n: int) -> Factors:
    """`n` rows that are hardly changed copies of a few: the same few in every shard of the pool."""
    originals = sample(stream(spec.stream, spec.seed, "repeated"), 160, kind=0, count=1, thing2=-1)
    rows = originals[(160 * rng.random(n) ** 2).astype(np.int64)]
    change = rng.random(rows["jitter"].shape, dtype=np.float32) - np.float32(0.5)
    rows["jitter"] = np.clip(rows["jitter"] + np.float32(0.03) * change, 0, 0.999)
    rows["jitter"][:, 19] = rng.random(n, dtype=np.float32)
    return rows


def _misread(rows: Factors, rng: np.random.Generator) -> Factors:
    """Copies of `rows` in which one thing is another: its name, colour, symbol or scene."""
    other = rows.copy()
    shift = rng.integers(1, 6, len(rows))
    things, empty = rows["kind"] == THING, (rows["kind"] == THING) & (rows["count"] == 0)
    thing = things & (rng.random(len(rows)) < 0.5)
    other["thing"] = np.where(thing, (rows["thing"] + shift) % len(THINGS), rows["thing"])
    other["colour"] = np.where(thing, rows["colour"], (rows["colour"] + shift) % len(COLOUR_NAMES))
    other["symbol"] = np.where(things, rows["symbol"], (rows["symbol"] + shift) % SYMBOLS[rows["kind"]])
    other["scene"] = np.where(empty, (rows["scene"] + shift) % len(SCENE_NAMES), rows["scene"])
    return other


def encode(pixels: npt.NDArray[np.uint8], size: tuple[int, int], *, blurred: bool = False) -> tuple[bytes, int, int]:
    """JPEG bytes, width and height of a picture (side, side, 3), its shape as that of the stated `size`."""
    image = Image.fromarray(pixels)
    width, height = size
    shape = (SIDE, min(_LONGEST, round(SIDE * height / width))) if width <= height else (
        min(_LONGEST, round(SIDE * width / height)), SIDE)  # fmt: skip
    if blurred:
        image = image.resize((9, 9), Image.Resampling.BOX)
    if image.size != shape:
        image = image.resize(shape, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue(), *image.size


def draw(samples: Samples) -> list[tuple[bytes, int, int]]:
    """JPEG bytes, width and height of each sample."""
    encoded = []
    text, tiny = FAULT_NAMES.index("text"), FAULT_NAMES.index("tiny")
    for start in range(0, len(samples.rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        fault = samples.fault[part]
        written = {int(i): samples.captions[start + i] for i in np.flatnonzero(fault == text)}
        pictures = render(samples.rows[part], texts=written)
        for i, picture in enumerate(pictures):
            width, height = samples.size[start + i].tolist()
            encoded.append(encode(picture, (width, height), blurred=bool(fault[i] == tiny)))
    return encoded


def member(name: str, content: bytes) -> bytes:
    """One member of a tar: header, content and padding; the header says nothing about time, user or machine."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def make_shard(spec: Spec) -> None:
    """Write shard `spec`: tar, parquet and stats, as img2dataset does."""
    samples = imagine(spec)
    pictures = draw(samples)
    folder = Path(spec.folder)
    name = f"{spec.shard:08d}"
    listed = []
    with open(folder / "shards" / f"{name}.tar", "wb") as tar:
        for i, (jpeg, width, height) in enumerate(pictures):
            uid = uid_of(spec.seed, spec.stream, spec.start + i)
            key = f"{name}{i:04d}"
            face = samples.rows[i]["kind"] == FACE and samples.fault[i] != FAULT_NAMES.index("text")
            facts = {
                "uid": uid,
                "face_bboxes": [[0.2, 0.22, 0.8, 0.82]] if face else [],
                "caption": samples.captions[i],
                "url": f"https://pictures.example/{uid[:2]}/{uid[2:12]}.jpg",
                "key": key,
                "status": "success",
                "error_message": None,
                "width": width,
                "height": height,
                "original_width": int(samples.size[i, 0]),
                "original_height": int(samples.size[i, 1]),
                "exif": "{}",
                "sha256": hashlib.sha256(jpeg).hexdigest(),
            }
            listed.append(facts)
            tar.write(member(f"{key}.jpg", jpeg))
            tar.write(member(f"{key}.txt", samples.captions[i].encode()))
            tar.write(member(f"{key}.json", json.dumps(facts).encode()))
        tar.write(TAR_END)
    pq.write_table(pa.Table.from_pylist(listed, schema=_SHARD_SCHEMA), folder / "shards" / f"{name}.parquet")
    stats = {
        "count": spec.samples, "successes": spec.samples, "failed_to_download": 0, "failed_to_resize": 0,
        "duration": 0.0, "start_time": 0.0, "end_time": 0.0, "status_dict": {"success": spec.samples},
    }  # fmt: skip
    (folder / "shards" / f"{name}_stats.json").write_text(json.dumps(stats, indent=4))


_BOXES = pa.list_(pa.list_(pa.float64()))
_SHARD_SCHEMA = pa.schema(
    [("uid", pa.string()), ("face_bboxes", _BOXES), ("caption", pa.string()), ("url", pa.string()),
     ("key", pa.string()), ("status", pa.string()), ("error_message", pa.string()), ("width", pa.int64()),
     ("height", pa.int64()), ("original_width", pa.int64()), ("original_height", pa.int64()), ("exif", pa.string()),
     ("sha256", pa.string())]
)  # fmt: skip
METADATA_SCHEMA = pa.schema(
    [("uid", pa.string()), ("url", pa.string()), ("text", pa.string()), ("original_width", pa.int64()),
     ("original_height", pa.int64()), ("clip_b32_similarity_score", pa.float32()),
     ("clip_l14_similarity_score", pa.float32()), ("face_bboxes", _BOXES), ("sha256", pa.string())]
)  # fmt: skip
