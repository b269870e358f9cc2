"""A pool of pictures that are noise, to measure how fast bytes are found and copied: nothing here is decoded."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np

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


if __name__ == "__main__":
    print(make_pool(Path(sys.argv[1])))
