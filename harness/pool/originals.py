"""The sha256 of each picture as it was when the pool's metadata were made, to tell which have changed since.

A link may show another picture today, by chance or on purpose (Carlini et al. 2023). Metadata files are turned into
sorted runs on disk once, so that a shard's samples are looked up without the whole pool in memory.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness import npy, uid
from harness.errors import ArtifactError
from harness.files import join, list_files
from harness.pool.reading import MetadataFile, open_parquet, stretches
from harness.tars import Entry, Reader, read_json
from harness.uid import UID_DTYPE, Uids

if TYPE_CHECKING:
    from harness.executor import Executor

CHANGED = "sha256 is not the metadata's"
UNKNOWN = "metadata has no sha256 for it"
Sums = npt.NDArray[np.void]
"""(N,) of V32."""
_NONE = bytes(32)


def write_runs(pool: str, folder: str, executor: "Executor") -> None:
    """Write the uids and sha256 of the pool's metadata to `folder`, a sorted pair of files for each metadata file.

    Raises ArtifactError if there is no metadata or a file has no column sha256.
    """
    metadata = list_files(join(pool, "metadata"), ".parquet")
    if not metadata:
        raise ArtifactError(f"{join(pool, 'metadata')}: no parquet file, so the pictures' sha256 cannot be checked")
    jobs = list(enumerate(metadata))
    executor.map(partial(_write_run, folder), jobs, name="sha256")


def _write_run(folder: str, job: tuple[int, str]) -> None:
    number, path = job
    with open_parquet(path) as parquet:
        file = MetadataFile(path, parquet.metadata.num_rows)
        if "sha256" not in parquet.schema_arrow.names:
            raise ArtifactError(f"{path}: no column 'sha256', so the pictures cannot be compared with their originals")
    uids, sums = [np.empty(0, UID_DTYPE)], [np.empty(0, "V32")]
    for stretch in stretches(file, columns=("uid", "sha256"), rows=1 << 17):
        uids.append(stretch.uids())
        texts = stretch.table["sha256"].to_pylist()
        sums.append(np.array([_bytes(text) for text in texts], dtype="V32"))
    joined = np.concatenate(uids)
    order = uid.argsort(joined)
    np.save(Path(folder) / f"{number}.uids.npy", joined[order])
    np.save(Path(folder) / f"{number}.sha256.npy", np.concatenate(sums)[order])


def _bytes(text: object) -> bytes:
    try:
        sha = bytes.fromhex(str(text))
    except ValueError:
        return _NONE
    return sha if len(sha) == 32 else _NONE


def expected(folder: str, uids: Uids) -> Sums:
    """The sha256 (N,) that the metadata have for `uids` (N,); zeros where they have none."""
    found = np.zeros(len(uids), "V32")
    for path in sorted(Path(folder).glob("*.uids.npy")):
        place = uid.find(uid.load(path), uids)
        here = np.flatnonzero(place >= 0)
        if len(here):
            sums = npy.load(path.with_name(path.name.replace(".uids.", ".sha256.")), dtype="V32")
            found[here] = sums[place[here]]
    return found


def fault(reader: Reader, entry: Entry, content: bytes, wanted: bytes) -> str | None:
    """Why a sample's picture is not the original with the sha256 `wanted`; None if it is.

    The stored bytes may be the original, or img2dataset's json may say that they were made from it.
    """
    if wanted == _NONE:
        return UNKNOWN
    if hashlib.sha256(content).digest() == wanted:
        return None
    try:
        made_from = json.loads(read_json(reader, entry))["sha256"]
    except (ValueError, RecursionError, KeyError, TypeError):  # a json that says nothing of it, or none
        return CHANGED
    return None if made_from == wanted.hex() else CHANGED
