"""A sealed pool: which samples are really there, in which order, and where each lies.

`python -m harness.pool seal` writes `pool.json`, `uids.npy` (pool order: shard by shard, row by row),
`shards.npy`, two tables of what it left out (`left_out`) and one index per shard; everything after it reads only these
and the tars' bytes. NumPy only.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from harness import npy, uid
from harness.errors import ArtifactError, ConfigError
from harness.files import join
from harness.records import Record, read_record
from harness.tars import SAMPLE_DTYPE, Samples
from harness.uid import UID_DTYPE, Uids

SHARD_FIELDS = [("samples", "<i8"), ("bytes", "<i8"), ("index", "S64")]
"""Beside the name: effective samples, size of the tar, sha256 (hex) of its index file's array."""

SORT_IN_MEMORY = 1 << 27
"""Pools up to this size are sorted in memory (2 GB), larger ones into a file beside the seal."""

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealedPool:
    """Read-only view of a pool that `seal` has verified."""

    path: str
    """The pool's folder or URL."""
    seal_dir: str
    """Local folder of the sealed files."""
    digest: str
    """Digest of the record pool.json: what every later result is traced to."""
    uids: Uids
    """(N,) in pool order, memory-mapped; no uid stands twice."""
    borders: npt.NDArray[np.int64]
    """(S + 1,): shard s holds the pool rows borders[s] to borders[s + 1]."""
    shards: tuple[str, ...]
    """Paths or URLs of the S tars, in pool order."""
    sources: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """Of a union: name of each pool in it to that pool's path and folder of sealed files. Empty for any other pool."""

    @classmethod
    def open(cls, path: str, seal_dir: str | None = None, *, record: Record | None = None) -> Self:
        """The sealed pool in `path`; ArtifactError if it is not sealed or its files do not fit together.

        `record` is its pool.json where that stands in another folder.
        """
        where = str(seal_dir or path)
        record = record or read_pool_record(where)
        table = load_table(where)
        uids = uid.load(join(where, "uids.npy"))
        borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(table["samples"], dtype=np.int64)])
        if len(uids) != borders[-1] or record.payload["samples"] != len(uids) or record.payload["shards"] != len(table):
            raise ArtifactError(f"{where}/pool.json: does not fit uids.npy and shards.npy beside it; {AGAIN}")
        sources = {name: (found[0], found[1]) for name, found in record.provenance.get("sources", {}).items()}
        places = (_place(name.decode(), sources, str(path), 0) for name in table["name"].tolist())
        shards = tuple(join(folder, "shards", f"{name}.tar") for folder, name in places)
        return cls(path=str(path), seal_dir=where, digest=record.digest, uids=uids, borders=borders, shards=shards,
                   sources=sources)  # fmt: skip

    def __len__(self) -> int:
        return len(self.uids)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each shard: its path below shards/ without the extension."""
        return tuple(name.decode() for name in load_table(self.seal_dir)["name"].tolist())

    def index(self, shard: int) -> Samples:
        """Memory-mapped (n,) of SAMPLE_DTYPE: the samples of shard number `shard`, in the order of `uids`."""
        samples = load_index(self.index_path(shard))
        if len(samples) != self.borders[shard + 1] - self.borders[shard]:
            raise ArtifactError(f"{self.index_path(shard)}: does not fit pool.json; {AGAIN}")
        return samples

    def index_path(self, shard: int) -> str:
        """The file of `index(shard)`."""
        folder, name = _place(self.names[shard], self.sources, self.seal_dir, 1)
        return join(folder, "index", f"{name}.npy")

    def sorted_uids(self) -> Uids:
        """(N,) sorted: a copy in memory, or of a large pool a memory-mapped file that stays beside the seal."""
        if len(self.uids) <= SORT_IN_MEMORY:
            return uid.sort(np.asarray(self.uids))
        path = join(self.seal_dir, f"sorted-{self.digest[:16]}.npy")
        if not os.path.exists(path):
            uid.sort_to_file(uid.blocks(self.uids), path)
        return uid.load(path)

    @property
    def duplicates_dir(self) -> str:
        """Where `harness.duplicates` puts this pool's columns, a file of the same name for each metadata file."""
        return join(self.seal_dir, f"duplicates-{self.digest[:16]}")

    def holdout(self, n: int) -> npt.NDArray[np.int64]:
        """(n,) ascending pool rows to keep out of training: a choice that depends on the uids alone.

        Raises ConfigError unless the pool has more than `n` samples.
        """
        if not 0 <= n < max(len(self), 1):
            raise ConfigError(f"pool.holdout={n} does not fit a pool of {len(self)} samples")
        rows, keys = np.empty(0, np.int64), np.empty(0, UID_DTYPE)
        for start in range(0, len(self) if n else 0, _CHUNK):
            chunk = mixed(np.asarray(self.uids[start : start + _CHUNK]))
            rows = np.concatenate([rows, np.arange(start, start + len(chunk))])
            keys = np.concatenate([keys, chunk])
            order = np.lexsort((keys["f1"], keys["f0"]))[:n]
            rows, keys = rows[order], keys[order]
        return np.sort(rows)


def _place(name: str, sources: Mapping[str, tuple[str, str]], own: str, which: int) -> tuple[str, str]:
    """Folder (the pool's, or of its sealed files) and name there of the shard that is called `name` here."""
    source, _, rest = name.partition("/")
    return (sources[source][which], rest) if source in sources else (own, name)


AGAIN = "seal the pool again with `python -m harness.pool seal`"
"""What a message says to do where the sealed files do not fit."""


def read_pool_record(seal_dir: str) -> Record:
    """The record pool.json of a sealed pool; ArtifactError if there is none."""
    try:
        return read_record(join(seal_dir, "pool.json"), "pool")
    except ArtifactError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            if "://" not in seal_dir and not os.path.isdir(seal_dir):
                raise ArtifactError(
                    f"{seal_dir}: no such folder, seen from {os.getcwd()}; name the sealed pool's (pool.path, "
                    "or pool.seal_dir)"
                ) from error
            raise ArtifactError(
                f"{seal_dir}: the pool is not sealed; run `python -m harness.pool seal` on its folder first"
            ) from error
        raise


def load_table(seal_dir: str) -> npt.NDArray[np.void]:
    """(S,) with the fields name, samples, bytes and index of every shard, in pool order."""
    table = load_array(join(seal_dir, "shards.npy"))
    if table.dtype.names is None or table.dtype.names != ("name", *(name for name, _ in SHARD_FIELDS)):
        raise ArtifactError(f"{seal_dir}/shards.npy: not a table of shards; {AGAIN}")
    return table


def load_index(path: str) -> Samples:
    """Memory-mapped array of SAMPLE_DTYPE from an index file."""
    samples = load_array(path)
    if samples.dtype != SAMPLE_DTYPE:
        raise ArtifactError(f"{path}: not an index of samples; {AGAIN}")
    return samples


def load_array(path: str) -> npt.NDArray[Any]:
    """Memory-mapped array from a local npy file; ArtifactError if it is missing or not whole."""
    try:
        return npy.load(path)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: missing or not a whole npy file; {AGAIN}") from error


def save_array(path: str, array: npt.NDArray[Any]) -> None:
    """Write `array` to the local `path` as npy, atomically."""
    npy.save(path, array)


def digest_array(array: npt.NDArray[Any]) -> str:
    """sha256 (hex) of the bytes of `array`."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def mixed(uids: Uids) -> Uids:
    """(N,) an invertible scrambling of uids, so that an order by it is unrelated to how uids were made."""
    low = _scramble(uids["f1"])
    out = np.empty(len(uids), dtype=UID_DTYPE)
    out["f0"], out["f1"] = _scramble(uids["f0"] ^ low), low
    return out


def _scramble(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
