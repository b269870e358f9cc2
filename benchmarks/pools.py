"""Metadata in CommonPool's layout, generated at any size, for the benchmarks of selection.

Columns, types, row groups and compression are CommonPool's: uid, url, text, sha256, sizes, two similarity scores
that hold float16 values, face boxes. Texts and urls are random words, so that compression is that of web text.
"""

import binascii
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness import uid
from harness.pool import left_out, scanning
from harness.pool.reading import MetadataFile
from harness.pool.sealed import SHARD_FIELDS, SealedPool, digest_array, save_array
from harness.records import Record, write_record

FILE_ROWS = 492_308
"""Rows of a metadata file of the pool `small`: 12.8 million in 26 files."""

TEXT = """
a the of in on with and for photo picture image vintage red blue green black white small large new old dog cat house
car tree street beach mountain sunset portrait woman man child people city night wedding dress shirt shoes table chair
kitchen garden flower bird horse river lake sky snow forest bridge church stock vector illustration design logo poster
cover book print canvas art painting drawing free download buy sale price best cheap online von der und mit für le la
les des une pour el los para con una 2019 2020 3d hd 4k jpg png img dsc
"""
WORDS = TEXT.split()


def make_pool(folder: Path, *, rows: int, file_rows: int = FILE_ROWS, seed: int = 0) -> Path:
    """A pool of `rows` rows in folder/metadata; one that is there already with as many rows is kept."""
    metadata = folder / "metadata"
    metadata.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, file_rows)):
        path = metadata / f"{number:032x}.parquet"
        if not path.exists():
            table = make_table(min(file_rows, rows - start), np.random.default_rng([seed, number]))
            pq.write_table(table, path.with_suffix(".tmp"), compression="snappy")
            os.replace(path.with_suffix(".tmp"), path)
    return folder


SHARD_ROWS = 10_000
"""Rows that img2dataset downloads into a shard."""
DOWNLOADED = 0.9
"""Share of the links that still gave a picture."""


def seal(folder: Path) -> SealedPool:
    """The seal that a download of the pool would have, without tars.

    Of each file's rows, SHARD_ROWS a shard, a tenth is missing, and the rest stands in the order of arrival.
    """
    if (folder / "pool.json").exists():
        return SealedPool.open(str(folder))
    sizes: list[int] = []
    pieces = []
    for number, path in enumerate(sorted((folder / "metadata").glob("*.parquet"))):
        rng = np.random.default_rng([1, number])
        uids = scanning.uids(MetadataFile(str(path), pq.read_metadata(path).num_rows), {})
        for start in range(0, len(uids), SHARD_ROWS):
            arrived = rng.permutation(uids[start : start + SHARD_ROWS])
            pieces.append(arrived[: round(len(arrived) * DOWNLOADED)])
            sizes.append(len(pieces[-1]))
    uid.save_pieces(folder / "uids.npy", pieces)
    table = np.zeros(len(sizes), dtype=[("name", "S8"), *SHARD_FIELDS])
    table["name"] = [b"%08d" % shard for shard in range(len(sizes))]
    table["samples"] = sizes
    save_array(str(folder / "shards.npy"), table)
    left_out.write(str(folder), left_out=[], remarks=[])
    payload = {"samples": sum(sizes), "shards": len(sizes), "table": digest_array(table), "left_out": {"count": 0},
               "uids": uid.digest(uid.load(folder / "uids.npy"))}  # fmt: skip
    write_record(folder / "pool.json", Record(kind="pool", payload=payload))
    return SealedPool.open(str(folder))


def make_table(rows: int, rng: np.random.Generator) -> pa.Table:
    """One metadata file."""
    scores = [np.clip(rng.normal(0.21, 0.05, rows), -1, 1).astype(np.float16).astype(np.float32) for _ in "bl"]
    faces = rng.random(rows) < 0.2
    boxes = pa.array(rng.random((int(faces.sum()), 4)).reshape(-1))
    box_list = pa.ListArray.from_arrays(np.arange(0, len(boxes) + 1, 4, dtype=np.int32), boxes)
    offsets = np.concatenate([[0], np.cumsum(faces)]).astype(np.int32)
    return pa.table(
        {
            "uid": hex_column(rows, 16, rng),
            "url": words_column(rows, 8, rng, joint="/", start="https://"),
            "text": words_column(rows, 9, rng),
            "original_width": rng.integers(60, 1600, rows),
            "original_height": rng.integers(60, 1600, rows),
            "clip_b32_similarity_score": scores[0],
            "clip_l14_similarity_score": scores[1],
            "face_bboxes": pa.ListArray.from_arrays(offsets, box_list),
            "sha256": hex_column(rows, 32, rng),
        }
    )


def hex_column(rows: int, size: int, rng: np.random.Generator) -> pa.Array:
    """Random lower-case hex strings of 2 * size characters."""
    characters = binascii.hexlify(rng.bytes(rows * size))
    offsets = np.arange(0, (rows + 1) * size * 2, size * 2, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(characters))


def words_column(rows: int, mean: int, rng: np.random.Generator, *, joint: str = " ", start: str = "") -> pa.Array:
    """Strings of one to 2 * mean - 1 words."""
    counts = rng.integers(1, 2 * mean, rows)
    vocabulary = np.array([word + joint for word in WORDS], dtype=object)
    words = vocabulary[np.minimum(rng.zipf(1.3, int(counts.sum())) - 1, len(WORDS) - 1)]
    ends: npt.NDArray[np.int64] = np.cumsum(counts)
    joined = words.tolist()
    return pa.array([start + "".join(joined[e - n : e]) for n, e in zip(counts.tolist(), ends.tolist(), strict=True)])
