"""Near-duplicates inside a pool, as columns that methods can use.

    python -m harness.duplicates pool.path=DIR [features=l14_img similarity=0.95] [out=FILE]

Writes a parquet file with a row per sample in pool order: `uid`, `sha256` of the stored picture, `phash` (64 bits,
harness.phash), and `exact` and `near`: the uid of the first sample in pool order with the same picture, or connected
to it by steps of at most four bits. With `features`, `similar` is the same for steps of a cosine of at least
`similarity` between stored embeddings (harness.similar). A sample that is its own `near` is the one to keep.

The same columns go beside the seal in the order of the metadata's rows, where `pool.filter` and `pool.map` find them
like columns of the metadata.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from harness import cli, images, similar, uid
from harness.config import PoolAt
from harness.executor import Executor, get
from harness.files import atomic_path, join, list_files, stamp
from harness.phash import Hashes, components, connected, near, phash
from harness.pool.keeping import kept
from harness.pool.reading import MetadataFile, Stretch, open_parquet
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.progress import say
from harness.ranges import AHEAD
from harness.records import StrictModel, digest_of
from harness.tars import Reader

ROWS = 1 << 17
"""Rows of a row group; their texts are made one group at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of the pictures of a pool or a part of it, in pool order."""

    sha256: npt.NDArray[np.bytes_]
    """(N,) of 32 bytes."""
    phash: Hashes


def fingerprints(sealed: SealedPool, executor: Executor) -> Fingerprints:
    """Hash every picture of a sealed pool.

    The hashes of each shard are kept beside the seal, so that a picture is decoded once, whichever commands ask for
    them and however they end.
    """
    shards = list(range(len(sealed.shards)))
    done = executor.map(partial(_hash_shard, sealed.path, sealed.seal_dir), shards, name="hash", unit="samples",
                        weights=np.diff(sealed.borders).tolist())  # fmt: skip
    return Fingerprints(np.concatenate([one.sha256 for one in done]), np.concatenate([one.phash for one in done]))


def _hash_shard(path: str, seal_dir: str, shard: int) -> Fingerprints:
    sealed = SealedPool.open(path, seal_dir)
    state = digest_of(stamp(sealed.shards[shard]))
    place = Path(seal_dir, f"hashes-{sealed.digest[:16]}", f"{shard:08d}-{state[:16]}.npz")
    if not place.exists() and not os.access(seal_dir, os.W_OK):  # a seal that cannot be written is read all the same
        return Fingerprints(*_hashes(sealed, shard))
    return Fingerprints(*kept(place, partial(_hashes, sealed, shard)))


def _hashes(sealed: SealedPool, shard: int) -> list[npt.NDArray[Any]]:
    """The fields of Fingerprints for one shard."""
    index = sealed.index(shard)
    sha, perceptual = np.zeros(len(index), "S32"), np.zeros(len(index), np.uint64)
    with Reader(sealed.shards[shard], ahead=AHEAD) as reader:
        for row, entry in enumerate(index):
            content = reader.exactly(int(entry["image"]), int(entry["image_size"]))
            sha[row] = hashlib.sha256(content).digest()
            perceptual[row] = phash(images.decode(content))
    return [sha, perceptual]


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicates:
    """What repeats in a sealed pool of N samples."""

    prints: Fingerprints
    first: dict[str, npt.NDArray[np.int64]]
    """exact, near and perhaps similar: (N,) the row of the first sample of the same kind."""

    def table(self, sealed: SealedPool, rows: npt.NDArray[np.int64]) -> pa.Table:
        """The columns of the module's text for these pool rows (R,); nulls where a row is -1."""
        absent = rows < 0
        at = np.where(absent, 0, rows)
        sha = [bytes(value).ljust(32, b"\0").hex() for value in self.prints.sha256[at]]
        columns = {
            "sha256": pa.array(sha, pa.string(), mask=absent),
            "phash": pa.array(self.prints.phash[at], pa.uint64(), mask=absent),
        }
        for name, first in self.first.items():
            columns[name] = pa.array(_names(sealed, first[at]), pa.string(), mask=absent)
        return pa.table(columns)


def _names(sealed: SealedPool, rows: npt.NDArray[np.int64]) -> list[str]:
    return uid.to_hex(np.asarray(sealed.uids[rows]))


def find(prints: Fingerprints, alike: npt.NDArray[np.int64] | None = None) -> Duplicates:
    """Which samples repeat; `alike` are the pairs of rows (P, 2) that are alike by their embeddings, if known."""
    _, exact, which = np.unique(prints.sha256, return_index=True, return_inverse=True)
    # Equal hashes are joined through the first of them: a thousand equal pictures cost no million pairs.
    # Ordered by where they first stand, the first of connected hashes is that of the first sample.
    codes, first, same = np.unique(prints.phash, return_index=True, return_inverse=True)
    order = np.argsort(first)
    kind = np.empty_like(order)
    kind[order] = order[connected(near(codes[order], codes[order]), len(codes))]
    found = {"exact": exact[which], "near": first[kind[same]]}
    if alike is not None:
        found["similar"] = components(alike, len(prints.phash))
    return Duplicates(prints, found)


def similar_rows(sealed: SealedPool, key: str, least: float, executor: Executor) -> npt.NDArray[np.int64]:
    """(P, 2) pool rows that are alike by the embeddings `key` and connect all that are."""
    pool = Pool.open(sealed.path, sealed=sealed, executor=executor)
    order = uid.argsort(np.asarray(sealed.uids))
    table = np.asarray(sealed.uids)[order]
    links = similar.links(pool, key, least=least, scratch=sealed.seal_dir)
    return np.stack([order[uid.find(table, side)] for side in links], axis=1)


def write(sealed: SealedPool, found: Duplicates, out: str) -> None:
    """Write the columns to `out` in pool order, and beside the seal in the metadata's order."""
    with atomic_path(out) as temporary:
        _write_groups(temporary, _pool_groups(sealed, found))
    order = uid.argsort(np.asarray(sealed.uids))
    table = np.asarray(sealed.uids)[order]
    shutil.rmtree(sealed.duplicates_dir, ignore_errors=True)
    for path in list_files(join(sealed.path, "metadata"), ".parquet"):
        groups = (found.table(sealed, _pool_rows(order, table, uids)) for uids in _metadata_groups(path))
        with atomic_path(Path(sealed.duplicates_dir, path.rsplit("/", 1)[-1])) as temporary:
            _write_groups(temporary, groups)


def _pool_groups(sealed: SealedPool, found: Duplicates) -> Iterator[pa.Table]:
    for start in range(0, len(sealed), ROWS):
        rows = np.arange(start, min(start + ROWS, len(sealed)))
        yield found.table(sealed, rows).add_column(0, "uid", pa.array(_names(sealed, rows)))


def _metadata_groups(path: str) -> Iterator[uid.Uids]:
    with open_parquet(path) as parquet:
        file = MetadataFile(path, parquet.metadata.num_rows)
        yield from (uid.from_hex([]),) if not parquet.num_row_groups else ()
        for group in range(parquet.num_row_groups):
            yield Stretch(parquet.read_row_group(group, columns=["uid"]), {}, file, 0, None).uids()


def _pool_rows(order: npt.NDArray[np.int64], table: uid.Uids, uids: uid.Uids) -> npt.NDArray[np.int64]:
    """The pool rows (R,) of `uids` (R,), -1 where the pool has none; `table` is sorted and `order` says where from."""
    place = uid.find(table, uids)
    return np.where(place < 0, -1, order[place])


def _write_groups(path: Path, groups: Iterator[pa.Table]) -> None:
    """Each table as one row group."""
    with contextlib.ExitStack() as stack:
        writer = None
        for table in groups:
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table, row_group_size=max(table.num_rows, 1))


class Settings(StrictModel):
    """Find exact and near duplicates in a pool."""

    pool: PoolAt
    features: str | None = Field(default=None, description="embeddings to compare as well: l14_img, b32_img")
    similarity: float = Field(default=0.95, gt=0, le=1, description="least cosine of two embeddings that are alike")
    out: str | None = Field(default=None, description="null: duplicates.parquet beside pool.json")
    executor: Literal["local", "ray"] = "local"


def command(argv: list[str]) -> None:
    """`python -m harness.duplicates`: see the module."""
    chosen = cli.settings(argv, Settings)
    executor = get(chosen.executor)
    sealed = seal(chosen.pool.path, seal_dir=chosen.pool.seal_dir, executor=executor)
    alike = None
    if chosen.features is not None:  # first: a missing npz file is found before pictures are hashed for hours
        alike = similar_rows(sealed, chosen.features, chosen.similarity, executor)
    found = find(fingerprints(sealed, executor), alike)
    out = chosen.out or join(sealed.seal_dir, "duplicates.parquet")
    write(sealed, found, out)
    say(f"{out}: one row per sample")
    counts = {name: int((first != np.arange(len(first))).sum()) for name, first in found.first.items()}
    words = {"exact": "repeat an earlier picture exactly", "near": "nearly", "similar": f"by {chosen.features}"}
    said = ", ".join(f"{count:,} {words[name]}" for name, count in counts.items())
    sys.stdout.write(f"{len(sealed):,} samples: {said}\n")


if __name__ == "__main__":
    cli.main(command)
