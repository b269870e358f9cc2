"""Sealed pools side by side, as one: what a run trains on that mixes a pool with data from elsewhere.

A union is a folder of sealed files like any other (`pool.json`, `uids.npy`, `shards.npy`, `left_out.parquet`,
`remarks.parquet`), so order, ledger, audit and entry need not know of it. Its shards are those of its sources, one
source after the other, under the names SOURCE/SHARD; tars and indexes stay where they are. `SOURCE/pool.json` is a copy
of each source's record.
"""

import collections
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from harness import uid
from harness.errors import ArtifactError
from harness.files import is_remote, join
from harness.pool import left_out
from harness.pool.left_out import LEFT_OUT, REMARKS, Table
from harness.pool.seal import repeats
from harness.pool.sealed import SHARD_FIELDS, SealedPool, digest_array, load_table, read_pool_record, save_array
from harness.provenance import provenance
from harness.records import Record, write_record
from harness.uid import Uids


def unite(pools: Mapping[str, SealedPool], out: str | os.PathLike[str]) -> SealedPool:
    """The union of `pools` (by name, in this order), with its sealed files in the local folder `out`.

    Nothing is done where they are there already. Raises ArtifactError if a uid stands in two of the pools.
    """
    where = str(out)
    sources = {name: (_absolute(pool.path), _absolute(pool.seal_dir)) for name, pool in pools.items()}
    inputs = {name: pool.digest for name, pool in pools.items()}
    if _already(where, inputs, sources):
        return SealedPool.open(where)
    Path(where, "pool.json").unlink(missing_ok=True)
    uid.save_pieces(join(where, "uids.npy"), (part for pool in pools.values() for part in uid.blocks(pool.uids)))
    uids = uid.load(join(where, "uids.npy"))
    _require_distinct(uids, pools)
    records = {name: read_pool_record(pool.seal_dir) for name, pool in pools.items()}
    for name, record in records.items():
        write_record(join(where, name, "pool.json"), record)
    table = _table(pools)
    save_array(join(where, "shards.npy"), table)
    left_out.write(where, left_out=_renamed(LEFT_OUT, pools), remarks=_renamed(REMARKS, pools))
    reasons: collections.Counter[str] = collections.Counter()
    for record in records.values():
        reasons.update(record.payload["left_out"]["reasons"])
    payload = {
        "samples": len(uids),
        "shards": len(table),
        "table": digest_array(table),
        "left_out": {"count": reasons.total(), "reasons": dict(sorted(reasons.items()))},
        "uids": uid.digest(uids),
        "sources": [{"name": name, "samples": len(pool)} for name, pool in pools.items()],
    }
    record = Record(kind="pool", inputs=inputs, payload=payload, provenance=provenance(sources=sources))
    write_record(join(where, "pool.json"), record)
    return SealedPool.open(where)


def reopen(path: str, seal_dir: str | None = None) -> SealedPool | None:
    """The union in the folder `path`, None if that is anything else.

    Raises ArtifactError if one of its sources was sealed anew since, for then samples may lie elsewhere.
    """
    where = str(seal_dir or path)
    try:
        record = read_pool_record(where)
    except ArtifactError:
        return None
    sources = record.provenance.get("sources", {})
    for name, (source, sealed_files) in sources.items():
        if read_pool_record(sealed_files).digest != record.inputs[name]:
            raise ArtifactError(f"{where}: its source {source} was sealed anew since; run the byod run again")
    return SealedPool.open(path, seal_dir) if sources else None


def parts(sealed: SealedPool) -> dict[str, Uids]:
    """The uids of each source of a union, by name and in their order; empty for any other pool."""
    found, start = {}, 0
    for source in read_pool_record(sealed.seal_dir).payload.get("sources", []):
        found[source["name"]] = sealed.uids[start : start + source["samples"]]
        start += source["samples"]
    return found


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _already(where: str, inputs: dict[str, str], sources: dict[str, tuple[str, str]]) -> bool:
    try:
        record = read_pool_record(where)
        left_out.require(where)
    except ArtifactError:
        return False
    places = {name: tuple(found) for name, found in record.provenance.get("sources", {}).items()}
    order = [source["name"] for source in record.payload.get("sources", [])]
    return record.inputs == inputs and places == sources and order == list(sources)


def _require_distinct(uids: Uids, pools: Mapping[str, SealedPool]) -> None:
    twice = repeats(uids)
    if not len(twice):
        return
    ends = np.cumsum([len(pool) for pool in pools.values()])
    later = list(pools)[int(np.searchsorted(ends, twice[0], side="right"))]
    raise ArtifactError(
        f"{len(twice):,} uids stand in two of the sources {', '.join(pools)}; the first, "
        f"{uid.to_hex(uids[twice[:1]])[0]}, stands in {pools[later].path} and in one before it; take these pairs out "
        "of one of them or, where they are the same pictures with other captions, give that folder uids=content"
    )


def _table(pools: Mapping[str, SealedPool]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    tables = {name: load_table(pool.seal_dir) for name, pool in pools.items()}
    names = [b"%s/%s" % (name.encode(), shard) for name, one in tables.items() for shard in one["name"].tolist()]
    table = np.zeros(len(names), dtype=[("name", f"S{max(map(len, names))}"), *SHARD_FIELDS])
    table["name"] = names
    for field, _ in SHARD_FIELDS:
        table[field] = np.concatenate([one[field] for one in tables.values()])
    return table


def _renamed(table: Table, pools: Mapping[str, SealedPool]) -> Iterator[tuple[str, ...]]:
    """The rows of all sources, each with its shard's name in the union."""
    for name, pool in pools.items():
        yield from ((f"{name}/{shard}", *rest) for shard, *rest in table.rows(pool.seal_dir))
