"""Metadata files of a pool in CommonPool's layout for tests of selection: no pictures, any fault on request."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import uid
from harness.pool.sealed import SealedPool

CAPTIONS: tuple[str | None, ...] = (
    "a photo of a brown dog on the beach",
    None,
    "",
    "un chien brun sur la plage avec son maître",
    "dog",
    "IMG_2041.JPG",
    "the quick red fox jumps over the lazy dog in the park",
    "ein brauner Hund am Strand mit seinem Besitzer",
    "two words",
    "my thoughts about the meaning\nof it all and whatever else",
)
SIZES = (40, 25, 35)
SCORE = "clip_l14_similarity_score"
WIDTHS = {"b32_img": 8, "b32_txt": 8, "l14_img": 12, "l14_txt": 12}


def uid_hex(name: object) -> str:
    """A uid of 32 hex characters made from a name."""
    return hashlib.md5(str(name).encode()).hexdigest()


def table_of(number: int, rows: int) -> dict[str, Any]:
    """Columns of file `number`: scores have ties and a few NaN, sizes a few zeros and nulls."""
    rng = np.random.default_rng(number)
    scores = [rng.normal(0.25, 0.05, rows).astype(np.float16).astype(np.float32).round(2) for _ in range(2)]
    scores = [np.where(rng.random(rows) < 0.02, np.float32("nan"), score).astype(np.float32) for score in scores]
    width = rng.integers(100, 900, rows).astype(object)
    if rows:
        width[0] = 0
        width[-1] = None
    return {
        "uid": [uid_hex((number, row)) for row in range(rows)],
        "url": [f"http://127.0.0.1/{row}" for row in range(rows)],
        "text": [CAPTIONS[row % len(CAPTIONS)] for row in range(rows)],
        "original_width": pa.array(width.tolist(), pa.int64()),
        "original_height": rng.integers(100, 900, rows),
        "clip_b32_similarity_score": scores[0],
        "clip_l14_similarity_score": scores[1],
        "extra": ["not asked for"] * rows,
    }


def write_file(path: Path, columns: dict[str, Any], *, row_group_size: int | None = None) -> Path:
    """A parquet file of `columns`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def write_features(path: Path, rows: int, seed: int, *, dtype: type = np.float16, compressed: bool = False) -> None:
    """The npz beside a parquet file."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=(rows, width)).astype(dtype) for name, width in WIDTHS.items()}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)


def write_metadata(folder: Path, sizes: Sequence[int] = SIZES, *, features: bool = True) -> Path:
    """A pool of files of these sizes."""
    for number, rows in enumerate(sizes):
        path = write_file(folder / "metadata" / f"{number:032x}.parquet", table_of(number, rows), row_group_size=16)
        if features:
            write_features(path.with_suffix(".npz"), rows, number)
    return folder


def every(sizes: tuple[int, ...] = SIZES) -> list[str]:
    """The uids of `write_metadata`'s files, in their order."""
    return [uid_hex((number, row)) for number, rows in enumerate(sizes) for row in range(rows)]


def column(name: str) -> list[Any]:
    """The values of a column in all files of `write_metadata`."""
    return [value for number, rows in enumerate(SIZES) for value in np.asarray(table_of(number, rows)[name]).tolist()]


class _Seal(SealedPool):
    """A sealed pool of given uids, without its files."""

    def sorted_uids(self) -> uid.Uids:
        return uid.sort(self.uids)


def sealed(folder: Path, texts: list[str]) -> SealedPool:
    """The pool in `folder`, of which only the pairs with these uids were realised."""
    return _Seal(path=str(folder), seal_dir=str(folder), digest="0" * 64, uids=uid.from_hex(texts),
                 borders=np.array([0, len(texts)]), shards=("0.tar",))  # fmt: skip
