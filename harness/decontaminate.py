"""Pictures of the evaluation sets that stand in a pool or a subset.

    python -m harness.decontaminate pool.path=DIR eval.data_dir=DIR out=DIR [subset=uids.npy]

Evaluation pictures and pool pictures are compared by perceptual hash. A positive control is planted: evaluation
pictures, scaled down and re-encoded, must be found again; the share that was is in the report, and a run that finds
fewer than nine in ten is no evidence of a clean pool and fails. `out` gets `contaminated.npy` (sorted uids),
`matches.parquet` (uid, task, key of the evaluation picture, bits that differ) and `decontamination.json`.
"""

import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness import cli, images, uid
from harness.config import PoolAt
from harness.duplicates import fingerprints
from harness.errors import ArtifactError, StageError
from harness.executor import Executor, get
from harness.files import atomic_path
from harness.phash import DISTANCE, Hashes, distance, near_pairs, phash
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.provenance import provenance
from harness.records import Record, StrictModel, digest_of, write_record
from harness.subset import Subset
from harness.tars import IMAGE_EXTENSIONS, BrokenTarError, Reader, members, split_name
from harness.uid import Uids

CONTROLS_EVERY = 50
"""One in so many evaluation pictures is planted as a control, at least one a tar."""
LEAST_RECALL = 0.9
_FLAT = 4
"""A picture whose grey levels vary less than this has a hash that means nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class EvalHashes:
    """Of the pictures in one tar of an evaluation set."""

    task: str
    keys: list[str]
    phash: Hashes
    controls: list[tuple[int, int]]
    """(row, hash of the same picture scaled down and re-encoded)."""


def hash_eval_tar(path: str) -> EvalHashes:
    """Hash the pictures of one tar; flat ones are left out. ArtifactError if the tar is broken."""
    keys: list[str] = []
    hashes: list[int] = []
    controls: list[tuple[int, int]] = []
    with Reader(path) as reader:
        try:
            for member in members(reader):
                key, extension = split_name(member.name)
                if extension not in IMAGE_EXTENSIONS:
                    continue
                picture = images.decode(reader.exactly(member.content, member.size))
                if np.asarray(picture.convert("L"), dtype=np.float32).std() < _FLAT:
                    continue
                if len(keys) % CONTROLS_EVERY == 0:
                    controls.append((len(keys), phash(disguised(picture))))
                keys.append(key)
                hashes.append(phash(picture))
        except (BrokenTarError, OSError, ValueError) as error:
            raise ArtifactError(f"{path}: not a readable tar of pictures ({error}); download the task again") from error
    task = Path(path).parent.parent.name
    return EvalHashes(task, keys, np.array(hashes, dtype=np.uint64), controls)


def disguised(picture: Image.Image) -> Image.Image:
    """The picture as it may come back from the web: smaller, and compressed hard."""
    small = picture.resize(
        (max(picture.width * 7 // 10, 8), max(picture.height * 7 // 10, 8)), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70)
    return images.decode(buffer.getvalue())


@dataclasses.dataclass(frozen=True, slots=True)
class Contamination:
    """What was found."""

    uids: Uids
    """Sorted, of the pool's samples that show an evaluation picture."""
    matches: pa.Table
    control_recall: float
    """Share of the planted controls that was found, in [0, 1]."""
    pictures: int
    """Evaluation pictures looked for."""


def search(sealed: SealedPool, tars: list[str], executor: Executor) -> Contamination:
    """Look for the pictures of evaluation `tars` in a sealed pool."""
    evals = executor.map(hash_eval_tar, tars, name="eval sets", unit="tars")
    wanted = np.concatenate([one.phash for one in evals])
    where = [(one.task, key) for one in evals for key in one.keys]
    offsets = np.cumsum([0] + [len(one.keys) for one in evals])
    controls = [(int(offset) + row, code) for offset, one in zip(offsets[:-1], evals, strict=True)
                for row, code in one.controls]  # fmt: skip
    held = fingerprints(sealed, executor).phash
    # The controls stand behind the pool's own pictures, and go through the same search.
    table = np.concatenate([held, np.array([code for _, code in controls], dtype=np.uint64)])
    pairs = near_pairs(wanted, table)
    found = {(int(a), int(b) - len(held)) for a, b in pairs[pairs[:, 1] >= len(held)]}
    recall = sum((row, i) in found for i, (row, _) in enumerate(controls)) / max(len(controls), 1)
    pairs = pairs[pairs[:, 1] < len(held)]
    uids = np.asarray(sealed.uids)[pairs[:, 1]]
    matches = pa.table({
        "uid": uid.to_hex(uids), "task": [where[row][0] for row in pairs[:, 0]],
        "key": [where[row][1] for row in pairs[:, 0]], "bits": distance(wanted[pairs[:, 0]], held[pairs[:, 1]]),
    })  # fmt: skip
    return Contamination(uid.sort(np.unique(uids)), matches, recall, len(wanted))


def eval_tars(data_dir: str) -> list[str]:
    """The tars of pictures of all tasks in `data_dir`; ArtifactError if there are none."""
    found = sorted(str(path) for part in ("test", "images") for path in Path(data_dir).glob(f"wds_*/{part}/*.tar"))
    found += sorted(str(path) for path in Path(data_dir).glob("wds_*/test/images/*.tar"))
    if not found:
        raise ArtifactError(f"{data_dir}: holds no wds_*/test/*.tar; see harness.download_tasks")
    return found


class EvalSettings(StrictModel):
    """The evaluation sets to look for."""

    data_dir: str


class Settings(StrictModel):
    """Search a pool for pictures of the evaluation sets."""

    pool: PoolAt
    eval: EvalSettings
    out: str
    subset: str | None = None
    """Report on this subset alone."""
    executor: Literal["local", "ray"] = "local"


def command(argv: list[str]) -> None:
    """`python -m harness.decontaminate`: see the module."""
    chosen = cli.settings(argv, Settings)
    executor = get(chosen.executor)
    sealed = seal(chosen.pool.path, seal_dir=chosen.pool.seal_dir, executor=executor)
    found = search(sealed, eval_tars(chosen.eval.data_dir), executor)
    uids, inputs = found.uids, {"pool": sealed.digest}
    if chosen.subset is not None:
        subset = Subset.load(chosen.subset)
        uids, inputs["subset"] = uids[uid.find(subset.unique, uids) >= 0], subset.digest
    payload: dict[str, Any] = {
        "pictures": found.pictures, "contaminated": len(uids), "uids": uid.digest(uids), "distance": DISTANCE,
        "control_recall": round(found.control_recall, 4), "matches": digest_of(found.matches.to_pylist()),
    }  # fmt: skip
    os.makedirs(chosen.out, exist_ok=True)
    uid.save(os.path.join(chosen.out, "contaminated.npy"), uids)
    with atomic_path(os.path.join(chosen.out, "matches.parquet")) as temporary:
        pq.write_table(found.matches, temporary)
    record = Record(kind="decontamination", inputs=inputs, payload=payload, provenance=provenance())
    write_record(os.path.join(chosen.out, "decontamination.json"), record)
    sys.stdout.write(
        f"{len(uids):,} samples show one of {found.pictures:,} evaluation pictures; {found.control_recall:.1%} of the "
        "planted controls were found\n"
    )
    if found.control_recall < LEAST_RECALL:
        raise StageError(
            f"decontaminate: only {found.control_recall:.1%} of the planted controls were found, "
            "so a clean result means nothing for these sets"
        )


if __name__ == "__main__":
    cli.main(command)
