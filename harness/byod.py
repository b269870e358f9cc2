"""The byod track: one's own data, sealed like a pool, beside what is chosen from the pool.

A run trains on a multiset of the uids of a union (harness/pool/union.py): each chosen uid of the pool as often as the
method says, times pool.weight, and every uid of each folder as often as its weight.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import uid
from harness.config import ByodFolder, RunConfig
from harness.errors import ArtifactError, ConfigError
from harness.executor import Executor
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool, read_pool_record
from harness.pool.union import parts, reopen, unite
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

    Raises ArtifactError if a folder is not there, holds nothing usable, or repeats a uid of another; ConfigError if the
    run in `run_dir` was made with other data, and its union is left as it is.
    """
    pools = [own] if own is not None else []
    pools += [_sealed(folder, executor) for folder in config.byod]
    sources = dict(zip(config.weights, pools, strict=True))
    place = run_dir / FOLDER
    if (run_dir / "config.json").exists() and (place / "pool.json").exists():
        before, now = read_pool_record(str(place)).inputs, {name: pool.digest for name, pool in sources.items()}
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                setting = "pool.path" if name == "pool" else f"byod ({name})"
                raise ConfigError(f"{run_dir}: made with other data of setting {setting}; choose another run_dir")
    return unite(sources, place)


def _sealed(folder: ByodFolder, executor: Executor) -> SealedPool:
    try:
        return seal(folder.path, seal_dir=folder.seal_dir, executor=executor, uids=folder.uids)
    except ArtifactError as error:
        raise ArtifactError(f"setting byod: {error}") from error


def selected_from(run_dir: Path) -> SealedPool:
    """The union that the selection of a byod run left in its folder; ArtifactError if a source is another now."""
    folder = str(run_dir / FOLDER)
    return reopen(folder) or SealedPool.open(folder)


def trained_on(run_dir: Path, made: Mapping[str, Any], pool: str | Path | None = None) -> SealedPool:
    """The sealed files that a finished run was trained on; those in the folder `pool` if one is named.

    Else they are the run's own union, wherever the run stands now, or those that `made`, the provenance of its
    train.json, names. Raises ArtifactError if they are not there.
    """
    named = made.get("pool") or {}
    if pool is None and (run_dir / FOLDER / "pool.json").exists():
        pool = run_dir / FOLDER
    if pool is not None and str(pool) != named.get("seal_dir"):
        return SealedPool.open(str(pool))
    if "seal_dir" not in named:
        raise ArtifactError(
            f"{run_dir / 'train' / 'train.json'}: does not say where the pool lies; name its folder of sealed files "
            "(pool=DIR of harness.audit, --pool of harness.entry)"
        )
    return SealedPool.open(named.get("path", named["seal_dir"]), named["seal_dir"])


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
