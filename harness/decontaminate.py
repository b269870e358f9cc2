"""Pictures of the evaluation sets that stand in a pool or a subset.

    python -m harness.decontaminate pool.path=DIR eval.data_dir=DIR out=DIR [subset=uids.npy]
        [features=b32_img model=ViT-B-32-quickgelu checkpoint=openai similarity=0.95]

Evaluation pictures and pool pictures are compared by perceptual hash and, with `features`, by the cosine of the
embeddings that the pool stores and those that the model gives. A positive control is planted: evaluation pictures,
scaled down and re-encoded, must be found again by each search; the share that was is in the report, and a run that
finds fewer than nine in ten is no evidence of a clean pool and fails. `out` gets `contaminated.npy` (sorted uids),
`matches.parquet` (uid, task, key of the evaluation picture, and `bits` that differ or `similarity`) and
`decontamination.json`.
"""

import dataclasses
import os
import sys
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from harness import cli, lookalikes, uid
from harness.config import PoolAt
from harness.duplicates import fingerprints
from harness.errors import StageError
from harness.evalpictures import eval_pictures, eval_tars, task_of
from harness.executor import Executor, get
from harness.files import atomic_path
from harness.lookalikes import LEAST_RECALL, Embedding
from harness.phash import DISTANCE, Hashes, distance, near_pairs, phash
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.provenance import provenance
from harness.records import Record, StrictModel, digest_of, write_record
from harness.subset import Subset
from harness.uid import Uids

MATCHES = pa.schema(
    [
        ("uid", pa.string()),
        ("task", pa.string()),
        ("key", pa.string()),
        ("bits", pa.uint8()),
        ("similarity", pa.float32()),
    ]
)


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
    for one in eval_pictures(path):
        if one.control is not None:
            controls.append((len(keys), phash(one.control)))
        keys.append(one.key)
        hashes.append(phash(one.picture))
    return EvalHashes(task_of(path), keys, np.array(hashes, dtype=np.uint64), controls)


@dataclasses.dataclass(frozen=True, slots=True)
class Contamination:
    """What was found."""

    uids: Uids
    """Sorted, of the pool's samples that show an evaluation picture."""
    matches: pa.Table
    """Of MATCHES."""
    control_recall: dict[str, float]
    """Share of the planted controls that each search (hash, embedding) found, in [0, 1]."""
    pictures: int
    """Evaluation pictures looked for."""


def search(sealed: SealedPool, tars: list[str], executor: Executor, how: Embedding | None = None) -> Contamination:
    """Look for the pictures of evaluation `tars` in a sealed pool, with `how` by embeddings as well."""
    evals = executor.map(hash_eval_tar, tars, name="eval sets", unit="tars")
    names = [(one.task, key) for one in evals for key in one.keys]
    uids, rows, bits, recall = _by_hash(sealed, evals, executor)
    matches, recalls = [_matches(names, uids, rows, bits=bits)], {"hash": recall}
    if how is not None:
        found = lookalikes.search(sealed, tars, how, executor)
        matches.append(_matches(names, found.uids, found.rows, similarity=found.cosines.round(4)))
        recalls["embedding"] = found.control_recall
        uids = np.concatenate([uids, found.uids])
    return Contamination(uid.sort(np.unique(uids)), pa.concat_tables(matches), recalls, len(names))


def _by_hash(sealed: SealedPool, evals: list[EvalHashes], executor: Executor) -> tuple[Uids, Any, Any, float]:
    """Uids, numbers of evaluation pictures and different bits of all matches (P,), and the share of controls found."""
    wanted = np.concatenate([one.phash for one in evals])
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
    return np.asarray(sealed.uids)[pairs[:, 1]], pairs[:, 0], distance(wanted[pairs[:, 0]], held[pairs[:, 1]]), recall


def _matches(names: list[tuple[str, str]], uids: Uids, rows: Any, **how: npt.NDArray[Any]) -> pa.Table:
    """A table of MATCHES of samples and evaluation pictures (numbers into `names`), with `bits` or `similarity`."""
    tasks, keys = [names[row][0] for row in rows], [names[row][1] for row in rows]
    return pa.table(
        [uid.to_hex(uids), tasks, keys, *(how.get(name, [None] * len(rows)) for name in ("bits", "similarity"))],
        schema=MATCHES,
    )


def _digest(matches: pa.Table) -> str:
    """Digest of the rows, some at a time."""
    return digest_of([digest_of(batch.to_pylist()) for batch in matches.combine_chunks().to_batches(1 << 16)])


class EvalSettings(StrictModel):
    """The evaluation sets to look for."""

    data_dir: str


class Settings(StrictModel):
    """Search a pool for pictures of the evaluation sets."""

    pool: PoolAt
    eval: EvalSettings
    out: str
    subset: str | None = Field(default=None, description="report on this subset alone")
    features: str | None = Field(
        default=None, description="embeddings of the pool to compare as well: b32_img, l14_img"
    )
    model: str | None = Field(default=None, description="the open_clip model that made these embeddings")
    checkpoint: str | None = Field(default=None, description="its weights: a file, or an open_clip tag")
    similarity: float = Field(default=0.95, gt=0, le=1, description="least cosine of two embeddings that are alike")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    executor: Literal["local", "ray"] = "local"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in ("features", "model", "checkpoint") if getattr(self, name) is not None]
        if len(given) not in (0, 3):
            raise ValueError(f"features, model and checkpoint go together, not {' and '.join(given)} alone")
        return self

    @property
    def embedding(self) -> Embedding | None:
        """What to compare by embeddings."""
        if self.features is None or self.model is None or self.checkpoint is None:
            return None
        return Embedding(features=self.features, model=self.model, checkpoint=self.checkpoint,
                         similarity=self.similarity, device=self.device)  # fmt: skip


def command(argv: list[str]) -> None:
    """`python -m harness.decontaminate`: see the module."""
    chosen = cli.settings(argv, Settings)
    executor = get(chosen.executor)
    sealed = seal(chosen.pool.path, seal_dir=chosen.pool.seal_dir, executor=executor)
    how = chosen.embedding
    found = search(sealed, eval_tars(chosen.eval.data_dir), executor, how)
    uids, inputs = found.uids, {"pool": sealed.digest}
    if chosen.subset is not None:
        subset = Subset.load(chosen.subset)
        uids, inputs["subset"] = uids[uid.find(subset.unique, uids) >= 0], subset.digest
    payload: dict[str, Any] = {
        "pictures": found.pictures, "contaminated": len(uids), "uids": uid.digest(uids), "distance": DISTANCE,
        "control_recall": {name: round(share, 4) for name, share in found.control_recall.items()},
        "embedding": None if how is None else how.model_dump(exclude={"device"}),
        "matches": _digest(found.matches),
    }  # fmt: skip
    os.makedirs(chosen.out, exist_ok=True)
    uid.save(os.path.join(chosen.out, "contaminated.npy"), uids)
    with atomic_path(os.path.join(chosen.out, "matches.parquet")) as temporary:
        pq.write_table(found.matches, temporary)
    record = Record(kind="decontamination", inputs=inputs, payload=payload, provenance=provenance())
    write_record(os.path.join(chosen.out, "decontamination.json"), record)
    shares = " and ".join(f"{share:.1%} by {name}" for name, share in found.control_recall.items())
    sys.stdout.write(
        f"{len(uids):,} samples show one of {found.pictures:,} evaluation pictures; of the planted controls {shares} "
        "were found\n"
    )
    for name, share in found.control_recall.items():
        if share < LEAST_RECALL:
            raise StageError(
                f"decontaminate: only {share:.1%} of the planted controls were found by {name}, "
                "so a clean result means nothing for these sets"
            )


if __name__ == "__main__":
    cli.main(command)
