"""Pools of pictures: of noise, to measure how fast bytes are found and copied, and of JPEGs that can be decoded."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

IMAGE_BYTES = 5400


def make_pool(folder: Path, *, samples: int = 100_000, per_shard: int = 10_000, image_bytes: int = IMAGE_BYTES) -> Path:
    """A pool of `samples` pairs in img2dataset's layout; made once per folder."""
    if (folder / "made").exists():
        return folder
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for shard in range(-(-samples // per_shard)):
        with tarfile.open(folder / "shards" / f"{shard:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(min(per_shard, samples - shard * per_shard)):
                for name, content in _members(f"{shard:08d}{row:04d}", rng.bytes(image_bytes)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (folder / "made").touch()
    return folder


def _members(key: str, image: bytes) -> list[tuple[str, bytes]]:
    caption = "a caption as people leave it with their pictures"
    about = {
        "uid": hashlib.md5(key.encode()).hexdigest(), "face_bboxes": [], "caption": caption,
        "url": f"https://example.org/pictures/{key}.jpg", "key": key, "status": "success", "error_message": None,
        "width": 512, "height": 341, "original_width": 1024, "original_height": 682, "exif": "{}",
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
    }  # fmt: skip
    return [(f"{key}.jpg", image), (f"{key}.json", json.dumps(about).encode()), (f"{key}.txt", caption.encode())]


def make_photographs(root: Path, samples: int, per_tar: int = 500) -> None:
    """512-pixel JPEGs of quality 95, as img2dataset stores them, with captions."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(3000)]
    (root / "shards").mkdir(parents=True)
    for first in range(0, samples, per_tar):
        with tarfile.open(root / "shards" / f"{first // per_tar:08d}.tar", "w") as tar:
            for row in range(first, min(first + per_tar, samples)):
                size = (512, 341) if row % 3 else (384, 512)
                # Smooth shapes with some noise: about the bytes and the decoding time of a photograph.
                coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)
                pixels = np.asarray(coarse).astype(np.int16) + rng.integers(
                    -8, 9, (size[1], size[0], 3), dtype=np.int16
                )
                buffer = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
                text = " ".join(rng.choice(words, 9)) + (" café" if row % 7 == 0 else "")
                members = {
                    "jpg": buffer.getvalue(),
                    "txt": text.encode(),
                    "json": json.dumps({"uid": rng.bytes(16).hex()}).encode(),
                }
                for extension, content in members.items():
                    info = tarfile.TarInfo(f"{first // per_tar:08d}{row - first:04d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    print(make_pool(Path(sys.argv[1])))
