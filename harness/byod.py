"""The byod track: one's own data, sealed like a pool, beside what is chosen from the pool.

A run trains on a multiset of the uids of a union (harness/pool/union.py): each chosen uid of the pool as often as the
method says, times pool.weight, and every uid of each folder as often as its weight.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness import uid
from harness.config import ByodFolder, RunConfig
from harness.errors import ArtifactError
from harness.executor import Executor
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.pool.union import parts, unite
from harness.records import digest_of, read_record, write_record
from harness.selection.run import Place, finished, record_of
from harness.subset import Subset
from harness.uid import Uids

FOLDER = "pool"
"""Where in its run folder a byod run keeps the sealed files of its union."""
SELECTION = "selection"
"""Where in its run folder a byod run keeps what its method chose from the pool."""


def gather(config: RunConfig, own: SealedPool | None, run_dir: Path, executor: Executor) -> SealedPool:
    """The union of the pool (None: left out) and the byod folders of `config`, each sealed now if it is not yet.

    Raises ArtifactError if a folder is not there, holds nothing usable, or repeats a uid of another.
    """
    pools = [own] if own is not None else []
    pools += [_sealed(folder, executor) for folder in config.byod]
    return unite(dict(zip(config.weights, pools, strict=True)), run_dir / FOLDER)


def _sealed(folder: ByodFolder, executor: Executor) -> SealedPool:
    try:
        return seal(folder.path, seal_dir=folder.seal_dir, executor=executor, uids=folder.uids)
    except ArtifactError as error:
        raise ArtifactError(f"setting byod: {error}") from error


def mix(config: RunConfig, chosen: Subset | None, union: SealedPool, run_dir: Path) -> Subset:
    """The subset that is trained on; its uid file and, last, its record are written to `run_dir`.

    `chosen` is what was chosen from the pool, None where it is left out.
    """
    inputs = {"pool": union.digest} | ({"selection": chosen.digest} if chosen is not None else {})
    work = digest_of({"inputs": inputs, "sources": config.weights})
    place = Place.of(run_dir)
    done = finished(place, work)
    if done is not None:
        return done
    sources = parts(union) | ({"pool": chosen.uids} if chosen is not None else {})
    uid.sort_to_file(_repeated(sources, config.weights), place.uids)
    subset = Subset.load(place.uids)
    record = read_record(run_dir / SELECTION / "subset.json", "subset") if chosen is not None else None
    method = record.payload if record is not None else {}
    more = {"method": method.get("method"), "remarks": method.get("remarks", []), "sources": config.weights}
    seconds = record.provenance.get("seconds") if record is not None else None
    write_record(place.record, record_of(subset, inputs, more, work=work, seconds=seconds))
    return subset


def _repeated(sources: dict[str, Uids], weights: dict[str, int]) -> Iterator[Uids]:
    for name, weight in weights.items():
        for part in uid.blocks(sources[name]):
            yield np.repeat(np.asarray(part), weight)
