"""Small pools in CommonPool's layout for tests: real JPEGs, real tars, any fault on request."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from harness import executor
from harness.pool.left_out import LEFT_OUT, REMARKS
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool

END = bytes(1024)
ONE = executor.local(1)


def uid_of(name: object) -> str:
    """A uid of 32 hex characters made from a name."""
    return hashlib.md5(str(name).encode()).hexdigest()


def picture(seed: int, *, format: str = "JPEG", mode: str = "RGB", size: int = 24, **options: object) -> bytes:
    """A small picture of noise."""
    bands = {"RGB": 3, "CMYK": 4, "RGBA": 4, "L": 1}[mode]
    shape = (size, size, bands) if bands > 1 else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, format, **options) if mode == "CMYK" else Image.fromarray(pixels).save(
        buffer, format, **options
    )
    return buffer.getvalue()


def sample(
    number: int, *, shard: int = 0, image: bytes | None = None, extension: str = "jpg", **meta: object
) -> dict[str, bytes]:
    """Members (name to content) of one sample, in img2dataset's order."""
    key = f"{shard:05d}{number:04d}"
    caption = f"caption {number} of shard {shard} é"
    about = {"uid": uid_of((shard, number)), "key": key, "caption": caption, "face_bboxes": [], **meta}
    content = picture(shard * 1000 + number) if image is None else image
    return {
        f"{key}.{extension}": content, f"{key}.json": json.dumps(about).encode(), f"{key}.txt": caption.encode(),
    }  # fmt: skip


def write_tar(path: Path, samples: Sequence[dict[str, bytes]], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of the members of `samples`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for members in samples:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def write_pool(folder: Path, *, shards: int = 3, samples: int = 8) -> Path:
    """A pool of good samples: `shards` tars with stats, no metadata."""
    for s in range(shards):
        write_tar(folder / "shards" / f"{s:08d}.tar", [sample(n, shard=s) for n in range(samples)])
        (folder / "shards" / f"{s:08d}_stats.json").write_text(json.dumps({"count": samples, "successes": samples}))
    return folder


def touch_later(path: Path) -> None:
    """Give `path` another time of change, whatever the clock's resolution."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def finished_shard(folder: Path, number: int, rows: list[tuple[int, str, str | None]]) -> None:
    """What img2dataset writes beside a tar: (number of the pair, status, message)."""
    folder.mkdir(parents=True, exist_ok=True)
    uids, status, messages = zip(*rows, strict=True)
    table = pa.table({"uid": [uid_of(n) for n in uids], "status": status, "error_message": messages})
    pq.write_table(table, folder / f"{number:08d}.parquet")
    (folder / f"{number:08d}_stats.json").write_text(json.dumps({"count": len(rows), "successes": 0}))
    (folder / f"{number:08d}.tar").write_bytes(b"")


def sealed_again(pool: Path, **more: object) -> SealedPool:
    """What `seal` makes of the pool as it is now."""
    return seal(str(pool), executor=ONE, **more)  # type: ignore[arg-type]


def left_out(pool: Path) -> list[list[str]]:
    """Rows [shard, key, uid, reason] of what the seal of `pool` does not use."""
    return [list(row) for row in LEFT_OUT.rows(str(pool))]


def remarks(pool: Path) -> list[list[str]]:
    """Rows [shard, key, remark] of what is odd but used."""
    return [list(row) for row in REMARKS.rows(str(pool))]


def drawing(seed: int, size: int = 96) -> Image.Image:
    """A picture with shapes, as natural pictures have: most of it in low frequencies."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(x) for x in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y, w, h = (int(v) for v in rng.integers(-10, size, 4))
        draw.ellipse([x, y, x + abs(w) + 8, y + abs(h) + 8], fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
