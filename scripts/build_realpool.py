"""Build a small pool of real pictures with the captions people left, in CommonPool's layout.

The pictures are those of the Open Clip Art Library (Debian's openclipart 0.18, public domain) and of Noto Emoji
(npm's emoji-datasource-google 16.0.0, Apache-2.0): about 11,900 pairs, shards of 1,000. A caption is what its
author left with the picture: title, description, keywords or file name, one of them for each picture, so many are
useless, repeated or in other languages. There are no similarity scores and no embeddings.

    apt-get download openclipart-png openclipart-svg        # Debian or Ubuntu, 156 MB
    npm pack emoji-datasource-google@16.0.0                 # 74 MB
    python scripts/build_realpool.py OUT openclipart-png_*.deb openclipart-svg_*.deb emoji-datasource-google-16.0.0.tgz

`--limit N` keeps N pairs, chosen by their uids alone (tests/data/realpool_sample was made with
`--limit 200 --shard 100 --side 160`). The same packages give the same bytes wherever the same Pillow is installed.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

JPEG_QUALITY = 90
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
LIST_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
WORK = "{http://web.resource.org/cc/}Work"


@dataclass(frozen=True)
class Pair:
    """A picture and everything that was written about it."""

    url: str
    path: Path
    captions: list[str]

    @property
    def uid(self) -> str:
        """32 hex characters made from the url."""
        return hashlib.md5(self.url.encode()).hexdigest()

    @property
    def caption(self) -> str:
        """One of the captions, chosen by the url."""
        choice = int.from_bytes(hashlib.sha256(self.url.encode()).digest()[:8], "big")
        return self.captions[choice % len(self.captions)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("packages", type=Path, nargs="+", help="the two .deb and the .tgz file")
    parser.add_argument("--limit", type=int, help="keep this many pairs")
    parser.add_argument("--shard", type=int, default=1000, help="pairs in a shard")
    parser.add_argument("--side", type=int, default=256, help="largest side of a picture in pixels")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for package in chosen.packages:
            unpack(package, Path(folder))
        pairs = sorted([*clipart(Path(folder)), *emoji(Path(folder))], key=lambda pair: pair.uid)[: chosen.limit]
        if not pairs:
            sys.exit("error: the packages hold no picture that this script knows")
        for number in range(-(-len(pairs) // chosen.shard)):
            part = pairs[number * chosen.shard : (number + 1) * chosen.shard]
            write_shard(chosen.out, number, part, chosen.side)
            print(f"shard {number}: {len(part)} pairs", flush=True)


def unpack(package: Path, folder: Path) -> None:
    """Lay the files of a .deb or a .tgz into `folder`."""
    if package.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    else:
        with tarfile.open(package) as archive:
            archive.extractall(folder, filter="data")


def clipart(folder: Path) -> Iterator[Pair]:
    """Every PNG of openclipart that opens, with what its SVG says."""
    root = folder / "usr" / "share" / "openclipart"
    for path in sorted((root / "png").rglob("*.png")):
        name = path.relative_to(root / "png")
        written = svg_captions((root / "svg" / name).with_suffix(".svg"))
        yield Pair(f"openclipart/{name.as_posix()}", path, [*written, path.stem, path.stem.replace("_", " ")])


def svg_captions(path: Path) -> list[str]:
    """Title, description and keywords of an SVG, those that are there."""
    try:
        work = ElementTree.parse(path).getroot().find(f".//{WORK}")
    except (OSError, ElementTree.ParseError):
        return []
    if work is None:
        return []
    texts = [work.findtext(DUBLIN_CORE + "title"), work.findtext(DUBLIN_CORE + "description")]
    subject = work.find(DUBLIN_CORE + "subject")
    keywords = [] if subject is None else [item.text.strip() for item in subject.iter(LIST_ITEM) if item.text]
    return [text.strip() for text in [*texts, ", ".join(keywords)] if text and text.strip()]


def emoji(folder: Path) -> Iterator[Pair]:
    """Every emoji of the package, skin tones included."""
    root = folder / "package"
    if not root.exists():
        return
    pictures = root / "img" / "google" / "64"
    for one in json.loads((root / "emoji.json").read_text()):
        name = (one["name"] or one["short_name"]).lower()
        yield from _emoji_pair(pictures, one["image"], [f"emoji {name}", name, one["short_name"], one["image"]])
        for tone, variation in one.get("skin_variations", {}).items():
            said = f"{name} skin tone {tone.lower()}"
            captions = [said, f"{one['subcategory']} {said}", one["short_name"], variation["image"]]
            yield from _emoji_pair(pictures, variation["image"], captions)


def _emoji_pair(pictures: Path, image: str, captions: list[str]) -> Iterator[Pair]:
    if (pictures / image).exists():
        yield Pair(f"emoji/google/{image}", pictures / image, captions)


def write_shard(out: Path, number: int, pairs: list[Pair], side: int) -> None:
    """One tar with its stats.json and its metadata."""
    for folder in ("shards", "metadata"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(out / "shards" / f"{number:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for pair in pairs:
            content = pair.path.read_bytes()
            try:
                jpeg, original, stored = encode(content, side)
            except (OSError, Image.DecompressionBombError) as error:
                print(f"left out: {pair.url}: {error}", file=sys.stderr)
                continue
            key = f"{number:08d}{len(rows):04d}"
            row = {
                "uid": pair.uid, "url": pair.url, "text": pair.caption, "original_width": original[0],
                "original_height": original[1], "sha256": hashlib.sha256(content).hexdigest(),
            }  # fmt: skip
            about = {
                "uid": pair.uid, "url": pair.url, "caption": pair.caption, "key": key, "status": "success",
                "error_message": None, "width": stored[0], "height": stored[1], "original_width": original[0],
                "original_height": original[1], "sha256": row["sha256"],
            }  # fmt: skip
            add(tar, f"{key}.jpg", jpeg)
            add(tar, f"{key}.txt", pair.caption.encode())
            add(tar, f"{key}.json", json.dumps(about, ensure_ascii=False).encode())
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), out / "metadata" / f"{number:08d}.parquet")
    stats = {"count": len(pairs), "successes": len(rows)}
    (out / "shards" / f"{number:08d}_stats.json").write_text(json.dumps(stats))


def encode(content: bytes, side: int) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """The picture as JPEG on white with its largest side at most `side`; its size before and after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is an error all the same
        opened = Image.open(io.BytesIO(content))
    with opened:
        original = opened.size
        layered = opened.convert("RGBA")
    picture = Image.new("RGB", original, "white")
    picture.paste(layered, mask=layered.getchannel("A"))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), original, picture.size


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without owner or time, so that the same pictures give the same tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main()
