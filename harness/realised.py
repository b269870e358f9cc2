"""Which pairs of the full pool an entry was chosen from: the bitmap realised.npy.

Above IN_FOLDER bytes it stands outside the entry's folder; packing leaves it in the first seed's run folder, where
publishing takes it from.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness import files, uid
from harness.errors import ArtifactError
from harness.finished import Run
from harness.pool import union
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.uid import Uids

IN_FOLDER = 32 << 20
"""Bytes of the largest bitmap that stands in the entry's folder: hosts of repositories refuse files of 100 MB."""


def elsewhere(run: Run) -> Path:
    """Where packing leaves a bitmap that is too large for the entry's folder; `run` is that of the lowest seed."""
    return run.folder / "realised.npy"


def full_list(run: Run, sealed: SealedPool, pool_list: str | Path | None) -> Uids | None:
    """The sorted uids of the full pool: as given, else of the pool's metadata where it has any.

    None for the generated pool of scale tiny: it is the same for everybody, so its list would tell nothing. Raises
    ArtifactError for a `pool_list` that is no uid file.
    """
    if pool_list is not None:
        return uid.load(pool_list)
    path = sealed.sources["pool"][0] if "pool" in sealed.sources else sealed.path
    if run.config.payload["scale"]["name"] == "tiny" or not files.list_files(f"{path}/metadata", ".parquet"):
        return None
    return Pool.open(path).uids()


def bitmap(full: Uids, sealed: SealedPool) -> npt.NDArray[np.uint8]:
    """One bit (little-endian) a uid of the sorted list `full`: is it in the sealed pool (byod: its own part)?

    `full` (N,), the result (ceil(N / 8),) uint8. Beside it little is held, so the lists may be memory-mapped and larger
    than memory. Raises ArtifactError if `full` is not sorted or lacks a uid of the sealed pool.
    """
    if not uid.is_sorted(full):
        raise ArtifactError("pool_list: the uids are not sorted; `python -m harness.subset convert` sorts them")
    bits = np.zeros(-(-len(full) // 8), dtype=np.uint8)
    own, missing = union.parts(sealed).get("pool", sealed.uids), 0
    for part in uid.blocks(own):
        at = uid.find(full, np.asarray(part))
        missing += int((at < 0).sum())
        at = at[at >= 0]
        np.bitwise_or.at(bits, at >> 3, np.uint8(1) << (at & 7).astype(np.uint8))
    if missing:
        raise ArtifactError(f"pool_list: {missing:,} uids of the sealed pool are not in the list")
    return bits
