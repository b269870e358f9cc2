"""The generated pool of scale tiny: small pictures with captions as the web gives them, in CommonPool's layout.

    <out>/metadata/<32 hex>.parquet    url, caption, stated sizes, scores (and .npz beside each: embeddings)
    <out>/shards/NNNNNNNN.tar          KEY.jpg, KEY.txt, KEY.json (and .parquet, _stats.json beside each)
    <out>/targets/                     what a pool may offer to methods beside itself: clean, from other streams
        texts.txt                      one right English caption a line, of the pictures of train/
        trusted/{metadata,shards}/     right pairs, itself a pool in the same layout
        train/                         a train split in the layout of a task: classnames.txt, …, train/{i}.tar
        train.npz                      b32_img, l14_img (float16), label (int64), in the order of train/{i}.tar
    <out>/made.json                    how it was made, written last

Everything is a function of (samples, seed): shard k comes from a random stream of its own, so neither the number of
workers nor the number of samples after it changes a shard.
"""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness import executor as executors
from harness.errors import ConfigError
from harness.files import atomic_path, data_dir, require_space, write_bytes
from harness.tiny import captions, sets
from harness.tiny.folder import make_once
from harness.tiny.questions import QUESTIONS
from harness.tiny.shards import FAULT_NAMES, METADATA_SCHEMA, SHARD_SAMPLES, Spec, imagine, make_shard, uid_of
from harness.tiny.world import stream

if TYPE_CHECKING:
    from harness.tiny.clips import ReferenceClip

SAMPLES, SEED = 65_536, 0
"""The default pool."""
METADATA_SHARDS = 4
"""Shards whose rows stand in one metadata file."""
TARGET = "imagenet1k"
"""The task whose train split a pool offers."""
_BYTES_A_SAMPLE = 6_000
_SCORES = ("clip_b32_similarity_score", "clip_l14_similarity_score")


def make_pool(
    out: str | Path,
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
    workers: int | None = None,
    faults: str | Path | None = None,
) -> None:
    """Make the pool in the folder `out`; nothing is done if it is there already.

    `faults`: a file outside `out` that gets a line `uid<tab>fault` per sample (see shards.FAULTS), for tests and
    studies of the generator; no method may read it (RULES.md). The default pool's scores ship with the package, so
    that selection from them is the same on every machine; others are computed.
    """
    where = Path(out).absolute()
    if samples < 1:
        raise ConfigError(f"setting samples: {samples} is not positive")
    if faults is not None:
        _write_faults(Path(faults).absolute(), where, samples, seed)
    shipped = None
    if (samples, seed) == (SAMPLES, SEED):
        shipped = np.load(data_dir("assets") / "scores.npy", allow_pickle=False)

    def build(draft: Path) -> None:
        require_space(where, samples * _BYTES_A_SAMPLE)
        _build(draft, samples, seed, workers, shipped)

    make_once(where, {"samples": samples, "seed": seed}, build)


def write_scores(folder: Path) -> None:
    """Compute the default pool's scores anew, in the empty `folder`, and write them to assets/scores.npy."""
    _build(folder, SAMPLES, SEED, None, None)
    groups = _groups(folder, "pool", SAMPLES, SEED, None)
    tables = [pq.read_table(folder / "metadata" / f"{group.stem}.parquet", columns=list(_SCORES)) for group in groups]
    scores = np.stack([pa.concat_tables(tables)[name].to_numpy() for name in _SCORES], 1).astype(np.float16)
    with atomic_path(data_dir("assets") / "scores.npy") as path, open(path, "wb") as file:
        np.save(file, scores, allow_pickle=False)


def specs(folder: Path, name: str, samples: int, seed: int) -> list[Spec]:
    """The shards of `samples` samples of stream `name`."""
    starts = range(0, samples, SHARD_SAMPLES)
    return [
        Spec(str(folder), seed, name, shard, start, min(SHARD_SAMPLES, samples - start))
        for shard, start in enumerate(starts)
    ]


def _write_faults(path: Path, pool: Path, samples: int, seed: int) -> None:
    if path.is_relative_to(pool):
        raise ConfigError(f"setting faults: {path} lies in the pool; which sample has which fault is kept elsewhere")
    lines = [
        f"{uid_of(seed, 'pool', spec.start + i)}\t{FAULT_NAMES[fault]}\n"
        for spec in specs(pool, "pool", samples, seed)
        for i, fault in enumerate(imagine(spec).fault)
    ]
    write_bytes(path, "".join(lines).encode())


@dataclass(frozen=True)
class _Group:
    """The shards whose rows make one metadata file."""

    folder: str
    stem: str
    shards: tuple[int, ...]
    scores: npt.NDArray[np.float16] | None
    """(rows, 2), or None: to be computed."""


def _build(folder: Path, samples: int, seed: int, workers: int | None, scores: npt.NDArray[np.float16] | None) -> None:
    # Processes cost seconds to start: a pool of one shard is made without.
    executor = executors.local(1 if samples <= SHARD_SAMPLES and workers is None else workers)
    trusted = max(256, samples // 16)
    try:
        pools = [(folder, "pool", samples, scores), (folder / "targets" / "trusted", "trusted", trusted, None)]
        parts = [spec for place, name, n, _ in pools for spec in specs(place, name, n, seed)]
        for place, *_ in pools:
            (place / "shards").mkdir(parents=True)
            (place / "metadata").mkdir()
        executor.map(make_shard, parts, name="pictures", unit="samples", weights=[spec.samples for spec in parts])
        _make_train_split(folder / "targets", samples, seed)
        groups = [group for place, name, n, known in pools for group in _groups(place, name, n, seed, known)]
        executor.map(_embed, groups, name="embeddings")
        _embed_train_split(folder / "targets")
    finally:
        executor.close()


def _groups(folder: Path, name: str, samples: int, seed: int, scores: npt.NDArray[np.float16] | None) -> list[_Group]:
    shards = -(-samples // SHARD_SAMPLES)
    rows = METADATA_SHARDS * SHARD_SAMPLES
    return [
        _Group(
            str(folder), uid_of(seed, f"{name}-metadata", k), tuple(range(first, min(first + METADATA_SHARDS, shards))),
            None if scores is None else scores[k * rows : (k + 1) * rows],
        )
        for k, first in enumerate(range(0, shards, METADATA_SHARDS))
    ]  # fmt: skip


@cache
def _clip(name: str) -> "ReferenceClip":
    from harness.tiny.clips import ReferenceClip

    return ReferenceClip(name)


def _embed(group: _Group) -> None:
    """Write one metadata parquet and the npz of embeddings beside it."""
    from harness.tiny import clips

    tables = []
    found: dict[str, list[Any]] = {f"{name}_{side}": [] for name in clips.NAMES for side in ("img", "txt")}
    for shard in group.shards:
        path = Path(group.folder) / "shards" / f"{shard:08d}"
        table = pq.read_table(path.with_suffix(".parquet"))
        tables.append(table)
        pictures = clips.decode(read_pictures(path.with_suffix(".tar")))
        tokens = clips.Tokens.of(table["caption"].to_pylist())
        for name in clips.NAMES:
            found[f"{name}_img"].append(_clip(name).images(pictures))
            found[f"{name}_txt"].append(_clip(name).texts(tokens))
    features = {name: np.concatenate(parts) for name, parts in found.items()}
    save_npz(Path(group.folder) / "metadata" / f"{group.stem}.npz", features)
    scores = group.scores
    if scores is None:
        scores = np.stack([clips.similarity(features[f"{n}_img"], features[f"{n}_txt"]) for n in clips.NAMES], 1)
    table = pa.concat_tables(tables).rename_columns({"caption": "text"})
    for column, name in enumerate(_SCORES):
        table = table.append_column(name, pa.array(scores[:, column].astype(np.float32)))
    pq.write_table(
        table.select(METADATA_SCHEMA.names).cast(METADATA_SCHEMA),
        Path(group.folder) / "metadata" / f"{group.stem}.parquet",
    )


def read_pictures(path: Path) -> list[bytes]:
    """The JPEG members of a tar, in order."""
    with tarfile.open(path) as tar:
        return [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]


def save_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """An uncompressed npz whose bytes hang on nothing but `arrays` (numpy's own hold the time)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getvalue())


def _make_train_split(targets: Path, samples: int, seed: int) -> None:
    question = QUESTIONS[TARGET]
    size = len(question.classes) * max(1, min(20, samples * 20 // SAMPLES))
    pictures, labels, _, rows = sets.draw(question, stream("train", seed), samples=size)
    names = [name for name, _ in question.classes]
    sets.write_classification(
        targets / "train", TARGET, pictures, labels, names, list(question.templates), split="train"
    )
    save_npz(targets / "train.npz", {"label": labels})
    texts = captions.describe(rows, stream("train texts", seed).random((size, captions.DRAWS)))
    (targets / "texts.txt").write_text("\n".join(texts) + "\n")


def _embed_train_split(targets: Path) -> None:
    from harness.tiny import clips

    tars = sorted((targets / "train" / "train").glob("*.tar"), key=lambda path: int(path.stem))
    pictures = clips.decode([jpeg for path in tars for jpeg in read_pictures(path)])
    with np.load(targets / "train.npz", allow_pickle=False) as known:
        labels = known["label"]
    save_npz(targets / "train.npz", {**{f"{n}_img": _clip(n).images(pictures) for n in clips.NAMES}, "label": labels})
