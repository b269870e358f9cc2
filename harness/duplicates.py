"""Near-duplicates inside a pool, as columns that methods can use.

    python -m harness.duplicates pool.path=DIR [out=FILE]

Writes a parquet file with a row per sample in pool order: `uid`, `sha256` of the stored picture, `phash` (64 bits,
harness.phash), and `exact` and `near`: the uid of the first sample in pool order with the same picture, or connected
to it by steps of at most four bits. A sample that is its own `near` is the one to keep.
"""

import dataclasses
import hashlib
import sys
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness import cli, images, uid
from harness.config import PoolAt
from harness.executor import Executor, get
from harness.files import atomic_path, join
from harness.phash import Hashes, components, near_pairs, phash
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.progress import say
from harness.ranges import AHEAD
from harness.records import StrictModel
from harness.tars import Reader


@dataclasses.dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of the pictures of a pool or a part of it, in pool order."""

    sha256: npt.NDArray[np.bytes_]
    """(N,) of 32 bytes."""
    phash: Hashes


def fingerprints(sealed: SealedPool, executor: Executor) -> Fingerprints:
    """Hash every picture of a sealed pool; each is decoded once."""
    shards = list(range(len(sealed.shards)))
    done = executor.map(partial(_hash_shard, sealed.path, sealed.seal_dir), shards, name="hash", unit="samples",
                        weights=np.diff(sealed.borders).tolist())  # fmt: skip
    return Fingerprints(np.concatenate([one.sha256 for one in done]), np.concatenate([one.phash for one in done]))


def _hash_shard(path: str, seal_dir: str, shard: int) -> Fingerprints:
    sealed = SealedPool.open(path, seal_dir)
    index = sealed.index(shard)
    sha, perceptual = np.zeros(len(index), "S32"), np.zeros(len(index), np.uint64)
    with Reader(sealed.shards[shard], ahead=AHEAD) as reader:
        for row, entry in enumerate(index):
            content = reader.exactly(int(entry["image"]), int(entry["image_size"]))
            sha[row] = hashlib.sha256(content).digest()
            perceptual[row] = phash(images.decode(content))
    return Fingerprints(sha, perceptual)


def duplicate_table(sealed: SealedPool, found: Fingerprints) -> pa.Table:
    """The columns of the module's text, (N,) each."""
    _, first, inverse = np.unique(found.sha256, return_index=True, return_inverse=True)
    near = components(near_pairs(found.phash, found.phash), len(sealed))
    names = np.array(uid.to_hex(np.asarray(sealed.uids)))
    return pa.table({
        "uid": names, "sha256": [bytes(value).ljust(32, b"\0").hex() for value in found.sha256], "phash": found.phash,
        "exact": names[first[inverse]], "near": names[near],
    })  # fmt: skip


class Settings(StrictModel):
    """Find exact and near duplicates in a pool."""

    pool: PoolAt
    out: str | None = None
    """Default: duplicates.parquet beside pool.json."""
    executor: Literal["local", "ray"] = "local"


def command(argv: list[str]) -> None:
    """`python -m harness.duplicates`: see the module."""
    chosen = cli.settings(argv, Settings)
    executor = get(chosen.executor)
    sealed = seal(chosen.pool.path, seal_dir=chosen.pool.seal_dir, executor=executor)
    table = duplicate_table(sealed, fingerprints(sealed, executor))
    out = chosen.out or join(sealed.seal_dir, "duplicates.parquet")
    with atomic_path(out) as temporary:
        pq.write_table(table, temporary)
    names = table["uid"].to_pylist()
    exact, near = (sum(a != b for a, b in zip(names, table[c].to_pylist(), strict=True)) for c in ("exact", "near"))
    say(f"{out}: one row per sample")
    sys.stdout.write(f"{len(names):,} samples: {exact:,} repeat an earlier picture exactly, {near:,} nearly\n")


if __name__ == "__main__":
    cli.main(command)
