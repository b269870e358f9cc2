"""One pair of each group of near-equal pictures, by the perceptual hashes of harness.duplicates.

Cost: `python -m harness.duplicates pool.path=DIR` once a pool, which decodes every picture; then one pass over the
uids, and 16 bytes in memory for each duplicate.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness import ArtifactError, Pool, SelectionContext, uid
from harness.files import join, open_file
from harness.uid import Uids


def select(
    pool: Pool, /, *, ctx: SelectionContext, same: Literal["near", "exact"] = "near", file: str | None = None
) -> Uids:
    """Keep the first pair of each group of `same` pictures: within steps of 4 bits (near), or byte for byte (exact).

    `file`: what harness.duplicates wrote; by default duplicates.parquet beside pool.json. Its groups fix the size; a
    pair that is not in the file is kept.
    """
    home = pool.sealed.seal_dir if pool.sealed else pool.path
    path = file or join(home, "duplicates.parquet")
    repeats, held = repeats_in(path, same, there=pool.contains)
    if not held:
        raise ArtifactError(f"{path}: none of its uids is in the pool {pool.path}; it is another pool's")
    if held < len(pool):
        ctx.remark(f"{len(pool) - held} of {len(pool)} pairs are not in {path} and are kept")
    uid.save(ctx.scratch / "repeats.npy", repeats)
    return pool.filter(partial(_keep, str(ctx.scratch / "repeats.npy")), columns=["uid"], name="phash_dedup")


def repeats_in(path: str, same: str, *, there: Callable[[Uids], npt.NDArray[np.bool_]]) -> tuple[Uids, int]:
    """Sorted uids that another one stands for in a file of harness.duplicates, and how many of its uids are there.

    ArtifactError if it is no such file. `there` (N,) tells which uids the pool shows: where the first of a group is
    held out, the next stands for it.
    """
    heirs: set[tuple[int, int]] = set()
    try:
        with open_file(path) as file:
            parquet = pq.ParquetFile(file)
            parts = [
                _repeats(batch, same, there, heirs) for batch in parquet.iter_batches(1 << 18, columns=["uid", same])
            ]
    except ArtifactError as error:
        raise ArtifactError(
            f"{path}: cannot be read; write it with `python -m harness.duplicates pool.path=DIR`, or give method.file"
        ) from error
    except (pa.ArrowException, KeyError) as error:
        raise ArtifactError(f"{path}: {error}; it is no file that `python -m harness.duplicates` wrote") from error
    repeats = uid.sort(np.concatenate([uid.from_hex([]), *(found for found, _ in parts)]))
    return repeats, sum(held for _, held in parts)


def _repeats(
    batch: pa.RecordBatch, same: str, there: Callable[[Uids], npt.NDArray[np.bool_]], heirs: set[tuple[int, int]]
) -> tuple[Uids, int]:
    """Those of a batch; `heirs` are the firsts in whose place another stands, of all batches so far."""
    uids, firsts = (uid.from_hex(batch[column].to_pylist()) for column in ("uid", same))
    shown, others = there(uids), uids != firsts
    repeated = np.zeros(len(uids), np.bool_)
    repeated[others] = there(firsts[others])
    for row in np.flatnonzero(shown & others & ~repeated).tolist():
        first = firsts[row].item()
        repeated[row] = first in heirs
        heirs.add(first)
    return uids[repeated], int(np.count_nonzero(shown))


def _keep(path: str, table: pa.Table) -> npt.NDArray[np.bool_]:
    missing: npt.NDArray[np.bool_] = uid.find(uid.load(path), uid.from_hex(table["uid"].to_pylist())) < 0
    return missing
