"""Pictures of the evaluation sets that stand in a pool or a subset.

    python -m harness.decontaminate pool.path=DIR eval.data_dir=DIR out=DIR [subset=uids.npy]
        [features=b32_img model=ViT-B-32-quickgelu checkpoint=openai similarity=0.95]

Evaluation pictures and pool pictures are compared by perceptual hash and, with `features`, by the cosine of the
embeddings that the pool stores and those that the model gives. A positive control is planted: evaluation pictures,
scaled down and re-encoded, must be found again by each search; the share that was is in the report, in all and by task,
and a run that finds fewer than nine in ten is no evidence of a clean pool and fails. `out` gets `contaminated.npy`
(sorted uids) and `matches.parquet` (uid, task, key of the evaluation picture, and `bits` that differ or `similarity`),
both of the subset if there is one, and `decontamination.json`. An interrupted search goes on where it stopped: pictures
are hashed and embedded once, and each metadata file is compared once.
"""

import dataclasses
import os
import shutil
import sys
from functools import partial
from pathlib import Path
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
from harness.files import atomic_path, lock, stamp
from harness.lookalikes import LEAST_RECALL, Embedding
from harness.phash import DISTANCE, Hashes, distance, near_pairs, phash
from harness.pool.keeping import kept, scratch_of
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.progress import say
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
    keys: npt.NDArray[np.str_]
    """(n,)"""
    phash: Hashes
    """(n,)"""
    planted: npt.NDArray[np.int64]
    """(c,) rows of the pictures that are planted as controls."""
    controls: Hashes
    """(c,) hashes of these, scaled down and re-encoded."""


def hash_eval_tar(folder: Path, tar: tuple[int, str]) -> EvalHashes:
    """Hash the pictures of one tar; flat ones are left out. ArtifactError if the tar is broken.

    `tar` is its number among all and its path; what an earlier run has left in `folder` is taken.
    """
    number, path = tar
    return EvalHashes(task_of(path), *kept(folder / f"hashes-{number}.npz", partial(_hashes, path)))


def _hashes(path: str) -> list[npt.NDArray[Any]]:
    keys: list[str] = []
    hashes: list[int] = []
    planted: list[int] = []
    controls: list[int] = []
    for one in eval_pictures(path):
        if one.control is not None:
            planted.append(len(keys))
            controls.append(phash(one.control))
        keys.append(one.key)
        hashes.append(phash(one.picture))
    return [np.array(keys, np.str_), np.array(hashes, np.uint64), np.array(planted, np.int64),
            np.array(controls, np.uint64)]  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Contamination:
    """What was found."""

    uids: Uids
    """Sorted, of the pool's samples that show an evaluation picture."""
    matches: pa.Table
    """Of MATCHES."""
    recovered: dict[str, npt.NDArray[np.bool_]]
    """(C,) which of the planted controls each search (hash, embedding) found."""
    tasks: list[str]
    """(C,) the task of each control."""
    pictures: int
    """Evaluation pictures looked for."""

    @property
    def control_recall(self) -> dict[str, float]:
        """Share of the planted controls that each search found, in [0, 1]."""
        return {name: _share(found) for name, found in self.recovered.items()}

    @property
    def task_recall(self) -> dict[str, dict[str, float]]:
        """The same for each task."""
        tasks = np.array(self.tasks)
        return {task: {name: _share(found[tasks == task]) for name, found in self.recovered.items()}
                for task in sorted(set(self.tasks))}  # fmt: skip

    def within(self, subset: Subset) -> Self:
        """What was found of a subset."""
        inside = uid.find(subset.unique, self.uids) >= 0
        rows = uid.find(subset.unique, uid.from_hex(self.matches["uid"].to_pylist())) >= 0
        return dataclasses.replace(self, uids=self.uids[inside], matches=self.matches.filter(pa.array(rows)))


def _share(found: npt.NDArray[np.bool_]) -> float:
    return round(float(found.mean()), 4) if len(found) else 0.0


def search(
    sealed: SealedPool, tars: list[str], executor: Executor, how: Embedding | None = None, *, scratch: Path
) -> Contamination:
    """Look for the pictures of evaluation `tars` in a sealed pool, with `how` by embeddings as well.

    `scratch` is a folder that all machines of the executor share, where an interrupted search of the same goes on.
    """
    evals = executor.map(partial(hash_eval_tar, scratch), list(enumerate(tars)), name="eval sets", unit="tars")
    names = [(one.task, key) for one in evals for key in one.keys.tolist()]
    uids, rows, bits, recovered = _by_hash(sealed, evals, executor)
    matches, found_by = [_matches(names, uids, rows, bits=bits)], {"hash": recovered}
    if how is not None:
        found = lookalikes.search(sealed, tars, how, executor, scratch=scratch)
        matches.append(_matches(names, found.uids, found.rows, similarity=found.cosines.round(4)))
        found_by["embedding"] = found.recovered
        uids = np.concatenate([uids, found.uids])
    tasks = [one.task for one in evals for _ in one.controls]
    return Contamination(uid.sort(np.unique(uids)), pa.concat_tables(matches), found_by, tasks, len(names))


def _by_hash(
    sealed: SealedPool, evals: list[EvalHashes], executor: Executor
) -> tuple[Uids, Any, Any, npt.NDArray[np.bool_]]:
    """Uids, numbers of evaluation pictures and different bits of all matches (P,); which controls were found (C,)."""
    wanted = np.concatenate([one.phash for one in evals])
    offsets = np.cumsum([0] + [len(one.keys) for one in evals])
    planted = np.concatenate([offset + one.planted for offset, one in zip(offsets[:-1], evals, strict=True)])
    held = fingerprints(sealed, executor).phash
    # The controls stand behind the pool's own pictures, and go through the same search.
    table = np.concatenate([held, *(one.controls for one in evals)])
    pairs = near_pairs(wanted, table)
    found = {(int(a), int(b) - len(held)) for a, b in pairs[pairs[:, 1] >= len(held)]}
    recovered = np.array([(row, i) in found for i, row in enumerate(planted.tolist())], dtype=bool)
    pairs = pairs[pairs[:, 1] < len(held)]
    return (
        np.asarray(sealed.uids)[pairs[:, 1]],
        pairs[:, 0],
        distance(wanted[pairs[:, 0]], held[pairs[:, 1]]),
        recovered,
    )


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


def _work(sealed: SealedPool, tars: list[str], how: Embedding | None) -> str:
    """Digest of all that a search hangs on, as it lies there now."""
    about: list[Any] = [sealed.digest, [[tar, stamp(tar)] for tar in tars]]
    if how is not None:
        weights = stamp(how.checkpoint) if os.path.exists(how.checkpoint) else ""
        about += [how.model_dump(), weights, Pool.open(sealed.path, sealed=sealed).state]
    return digest_of(about)


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


def _write(out: Path, found: Contamination, how: Embedding | None, inputs: dict[str, str]) -> None:
    """Write the uids, the matches and, last, the record to the folder `out`."""
    payload: dict[str, Any] = {
        "pictures": found.pictures, "contaminated": len(found.uids), "uids": uid.digest(found.uids),
        "distance": DISTANCE, "control_recall": found.control_recall, "task_recall": found.task_recall,
        "embedding": None if how is None else how.model_dump(exclude={"device"}),
        "matches": _digest(found.matches),
    }  # fmt: skip
    uid.save(out / "contaminated.npy", found.uids)
    with atomic_path(out / "matches.parquet") as temporary:
        pq.write_table(found.matches, temporary)
    record = Record(kind="decontamination", inputs=inputs, payload=payload, provenance=provenance())
    write_record(out / "decontamination.json", record)


def command(argv: list[str]) -> None:
    """`python -m harness.decontaminate`: see the module."""
    chosen = cli.settings(argv, Settings)
    executor = get(chosen.executor)
    subset = None if chosen.subset is None else Subset.load(chosen.subset)
    sealed = seal(chosen.pool.path, seal_dir=chosen.pool.seal_dir, executor=executor)
    how, inputs = chosen.embedding, {"pool": sealed.digest}
    tars, place = eval_tars(chosen.eval.data_dir), Path(chosen.out, ".scratch").absolute()
    with lock(place):
        found = search(sealed, tars, executor, how, scratch=scratch_of(place, _work(sealed, tars, how)))
        if subset is not None:
            found, inputs["subset"] = found.within(subset), subset.digest
        _write(Path(chosen.out), found, how, inputs)
        shutil.rmtree(place, ignore_errors=True)
    shares = " and ".join(f"{share:.1%} by {name}" for name, share in found.control_recall.items())
    sys.stdout.write(
        f"{len(found.uids):,} samples show one of {found.pictures:,} evaluation pictures; "
        f"of the planted controls {shares} were found\n"
    )
    for task, recall in found.task_recall.items():
        for name, share in recall.items():
            if share < LEAST_RECALL:
                say(f"warning: {task}: {share:.1%} of its planted controls were found by {name}; "
                    "its pictures may stand in the pool unfound")  # fmt: skip
    for name, share in found.control_recall.items():
        if share < LEAST_RECALL:
            raise StageError(
                f"decontaminate: only {share:.1%} of the planted controls were found by {name}, "
                "so a clean result means nothing for these sets"
            )


if __name__ == "__main__":
    cli.main(command)
