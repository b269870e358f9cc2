"""Evaluation pictures in a pool by the cosine of embeddings: those that the pool stores, and a model's own.

The model must be the one that made the pool's embeddings. That is checked: some of the pool's pictures are embedded
again and must be alike to what is stored for them. Memory grows with the number of evaluation pictures, not with the
pool; the work with the product of both, though most pairs cost a bound alone (harness.sieve).
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from harness import images, nearest, npy, uid
from harness.errors import ArtifactError
from harness.evalpictures import eval_pictures
from harness.executor import Executor
from harness.pool.keeping import kept
from harness.pool.sealed import SealedPool
from harness.pool.view import CHUNK, Pool
from harness.records import StrictModel
from harness.tars import Reader
from harness.uid import UID_DTYPE, Uids

Half = npt.NDArray[np.float16]

PROBES = 64
"""Pictures of the pool that are embedded again."""
LEAST_RECALL = 0.9
"""Share of planted controls, or of probes, that a search must find to mean anything."""


class Embedding(StrictModel):
    """The pool's embeddings to compare, and the model that made them."""

    features: str
    model: str
    checkpoint: str
    similarity: float
    device: str


@dataclasses.dataclass(frozen=True, slots=True)
class Lookalikes:
    """For each sample of the pool that is alike to an evaluation picture, the nearest one."""

    uids: Uids
    """(N,)"""
    rows: npt.NDArray[np.int64]
    """(N,) numbers of the evaluation pictures, in the order of the tars."""
    cosines: npt.NDArray[np.float32]
    """(N,)"""
    recovered: npt.NDArray[np.bool_]
    """(C,) which of the planted controls are alike to their originals, in the order of the tars."""


_CLOSE = np.dtype([("uid", UID_DTYPE), ("row", "<i8"), ("cosine", "<f4")])
"""A sample of the pool, the number of the nearest evaluation picture, and their cosine."""


def search(sealed: SealedPool, tars: list[str], how: Embedding, executor: Executor, *, scratch: Path) -> Lookalikes:
    """Look for the pictures of evaluation `tars` in a sealed pool.

    Their embeddings, and what is found in each metadata file, are kept in the folder `scratch`, which all machines of
    the executor must share; an interrupted search of the same goes on from there. Raises ArtifactError if the pool has
    no such embeddings or they are not the model's.
    """
    pool = Pool.open(sealed.path, sealed=sealed, executor=executor)
    _require_same_model(pool, sealed, how)
    parts = [kept(scratch / f"embeddings-{number}.npz", partial(_embed_tar, tar, how))
             for number, tar in enumerate(tars)]  # fmt: skip
    wanted = np.concatenate([rows for rows, _, _ in parts])
    offsets = np.cumsum([0] + [len(rows) for rows, _, _ in parts])
    planted = np.concatenate([rows + offset for offset, (_, rows, _) in zip(offsets[:-1], parts, strict=True)])
    controls = np.concatenate([controls for _, _, controls in parts])
    path = scratch / "wanted.npy"
    npy.save(path, wanted)
    close = partial(_close, str(path), how.features, how.similarity)
    found = np.concatenate(
        pool.resuming(scratch / "found").map(close, columns=["uid"], features=[how.features], rows=CHUNK,
                                             name="compare")
    )  # fmt: skip
    # The controls go through the same search as the pool's own embeddings.
    alike = {tuple(pair) for pairs, _ in nearest.alike(controls, wanted, least=how.similarity)
             for pair in pairs.tolist()}  # fmt: skip
    recovered = np.array([pair in alike for pair in enumerate(planted.tolist())], dtype=bool)
    return Lookalikes(found["uid"], found["row"], found["cosine"], recovered)


def _embed_tar(tar: str, how: Embedding) -> list[npt.NDArray[Any]]:
    """Embeddings (n, width) of a tar's pictures, the rows that are planted as controls (c,), and theirs (c, width)."""
    planted: list[bool] = []

    def pictures() -> Iterator[Image.Image]:
        for one in eval_pictures(tar):
            planted.append(False)
            yield one.picture
            if one.control is not None:
                planted.append(True)
                yield one.control

    embeddings = _embedded(pictures(), how)
    control = np.array(planted, dtype=bool)
    return [embeddings[~control], (np.cumsum(~control) - 1)[control], embeddings[control]]


def _embedded(pictures: Iterator[Image.Image], how: Embedding) -> Half:
    from harness.score import embed_pictures  # torch, which a search by hash alone does without

    return embed_pictures(pictures, model=how.model, checkpoint=how.checkpoint, device=how.device)


def _require_same_model(pool: Pool, sealed: SealedPool, how: Embedding) -> None:
    probes = np.unique(np.linspace(0, len(sealed) - 1, min(PROBES, len(sealed))).astype(np.int64))
    again = _embedded(_pool_pictures(sealed, probes), how)
    stored = pool.map(partial(_stored, np.asarray(sealed.uids[probes]), how.features), columns=["uid"],
                      features=[how.features], rows=CHUNK, name="probes")  # fmt: skip
    places, rows = (np.concatenate([one[side] for one in stored]) for side in (0, 1))
    alike = 0.0
    if rows.shape[1:] == again.shape[1:] and len(rows):
        cosines = (nearest.unit(again[places]) * nearest.unit(rows)).sum(axis=1)
        alike = float((cosines >= how.similarity).mean())
    if alike < LEAST_RECALL:
        raise ArtifactError(
            f"{pool.path}: {how.features} is not what model {how.model} gives: {alike:.0%} of {len(places)} pictures "
            f"embedded again are alike to what is stored; give the model and checkpoint that made {how.features}"
        )


def _pool_pictures(sealed: SealedPool, rows: npt.NDArray[np.int64]) -> Iterator[Image.Image]:
    """The pictures at these ascending pool rows."""
    shards = np.searchsorted(sealed.borders, rows, side="right") - 1
    for shard in np.unique(shards).tolist():
        index = sealed.index(shard)
        with Reader(sealed.shards[shard]) as reader:
            for entry in index[rows[shards == shard] - sealed.borders[shard]]:
                yield images.decode(reader.exactly(int(entry["image"]), int(entry["image_size"])))


def _stored(probes: Uids, key: str, table: pa.Table, features: dict[str, Any]) -> tuple[npt.NDArray[np.int64], Half]:
    """Which of the probes stand in this stretch, and their embeddings."""
    uids = uid.from_hex(table["uid"].to_pylist())
    order = uid.argsort(uids)
    place = uid.find(uids[order], probes)
    here = np.flatnonzero(place >= 0)
    return here, np.asarray(features[key][order[place[here]]])


def _close(path: str, key: str, least: float, table: pa.Table, features: dict[str, Any]) -> npt.NDArray[np.void]:
    """The rows of a stretch that are alike to an evaluation picture: (n,) of _CLOSE."""
    rows = features[key]
    best, at = np.full(len(rows), -1, np.float32), np.full(len(rows), -1)
    for pairs, cosines in nearest.alike(rows, nearest.load(path), least=least):
        order = np.argsort(cosines, kind="stable")  # of several for a row, the last and largest stays
        row, picture, cosine = pairs[order, 0], pairs[order, 1], cosines[order]
        better = cosine > best[row]
        best[row[better]], at[row[better]] = cosine[better], picture[better]
    hit = np.flatnonzero(at >= 0)
    found = np.empty(len(hit), _CLOSE)
    found["uid"] = uid.from_hex(table["uid"].take(hit).to_pylist())
    found["row"], found["cosine"] = at[hit], best[hit]
    return found
