"""Embeddings and similarity scores of a pool by any open_clip model, in CommonPool's layout.

    python -m harness.score pool.path=DIR model=ViT-B-32 checkpoint=FILE|TAG [name=b32] [executor=ray]

Shard by shard, every readable pair's picture and caption are embedded; what is done stays in `<pool>/scored/<name>/`,
and the same command goes on from there. Then the metadata files get the column `clip_<name>_similarity_score` and the
npz files beside them the arrays `<name>_img` and `<name>_txt`; rows that could not be downloaded get NaN and zeros.
So a pool without scores can use every method, and a filter network trained elsewhere can score a pool.

The column's own metadata in the parquet file say under `harness.score` what made it: the pool, the model, the sha256
of the checkpoint (or its tag), the kind of device, the precision, and the mean and standard deviation of a tag's
pictures where they are not CLIP's own. The same command does nothing where all of that
stands already; a column or arrays of another origin are replaced only with overwrite=true.
"""

import hashlib
import importlib
import io
import itertools
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from pydantic import Field

from harness import cli, files, images, uid
from harness import executor as executors
from harness import model as models
from harness.config import PoolAt, Precision
from harness.device import autocast, pick, settle
from harness.errors import ArtifactError, ConfigError, InfraError, StageError
from harness.executor import Executor
from harness.files import atomic_path
from harness.pool import features as npz
from harness.pool.reading import MetadataFile
from harness.pool.scanning import uids as uids_of
from harness.pool.seal import patient_lock
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.progress import say
from harness.records import StrictModel, canonical_json
from harness.tars import Reader, read_sample

Half = npt.NDArray[np.float16]
PARTS = ("img", "txt")
MARK = b"harness.score"
"""Key of the column's metadata that says what made it."""


class Settings(StrictModel):
    """Score a sealed pool with a CLIP model."""

    pool: PoolAt
    model: str = Field(description="open_clip's name of the model, or one of configs/model/")
    checkpoint: str = Field(description="safetensors or state dict file, or an open_clip tag")
    name: str = Field(
        default="b32", pattern="^[a-z0-9_]+$", description="names the columns: clip_<name>_similarity_score"
    )
    overwrite: bool = Field(default=False, description="replace columns and embeddings of this name of other origin")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    batch_size: int = Field(default=256, gt=0)
    precision: Literal["fp32", "amp_bfloat16"] | None = Field(
        default=None, description="amp_bfloat16 on GPUs by default"
    )
    executor: Literal["local", "ray"] = "local"


def score(sealed: SealedPool, settings: Settings, *, executor: Executor) -> None:
    """Score every shard that is not done yet, then write scores and embeddings beside the metadata.

    Does nothing if all metadata files hold them. Raises ArtifactError before any work if there is no metadata, or none
    of its rows is in the sealed pool, ConfigError if something else has written what stands there under this name.
    Waits for another command that writes into the pool's folder.
    """
    if files.is_remote(sealed.path):
        raise ConfigError(
            f"setting pool.path: {sealed.path} is no local folder; scores are written beside the metadata"
        )
    models.config(settings.model)
    pool = Pool.open(sealed.path, sealed=sealed)
    pool.count()  # an error where the metadata are of other pairs
    # Resolved where the work is done: a cluster's driver may have no GPU.
    pick_here = partial(pick, setting="device")
    device = next(executor.stream(pick_here, [settings.device], name="device", quiet=True))
    precision = settings.precision or _usual_precision(device)
    settings = settings.model_copy(update={"device": str(device), "precision": precision})
    mark = _mark(sealed, settings)
    if not _left(pool.files, settings.name, mark):
        return
    # Two at once would each write the metadata as read before, one of them without the other's column.
    with patient_lock(sealed.path):
        if SealedPool.open(sealed.path, sealed.seal_dir).digest != sealed.digest:
            raise InfraError(f"{sealed.path}: sealed anew while this waited for it; run the same command again")
        if left := _left(pool.files, settings.name, mark):
            _score(sealed, settings, mark, left, executor)


def _left(paths: list[str], name: str, mark: bytes) -> list[str]:
    """The metadata files that do not hold all that this mark stands for."""
    return [path for path in paths if _found(path, name) != (_names(name), mark)]


def _score(sealed: SealedPool, settings: Settings, mark: bytes, left: list[str], executor: Executor) -> None:
    """Embed what is not embedded yet, and write beside the metadata files `left`; the pool's lock is held."""
    folder = Path(sealed.path) / "scored" / settings.name / hashlib.sha256(mark).hexdigest()[:16]
    if not folder.exists() and not settings.overwrite:
        _require_own(left, settings.name)
    # A tag is fetched once, before all workers need it, and what does not load is told before anything is written.
    executor.map(partial(_load_once, settings.model, settings.checkpoint), [settings.device], name="model")
    sizes = {shard: size for shard, size in enumerate(np.diff(sealed.borders).tolist()) if size}
    work = partial(_score_shard, sealed.path, sealed.seal_dir, settings, str(folder))
    executor.map(work, list(sizes), name="score", unit="pairs", weights=list(sizes.values()))
    table = _Scored(sealed, folder)
    for path in left:
        table.write_beside(path, settings.name, mark)
    shutil.rmtree(folder.parent)


def _mark(sealed: SealedPool, settings: Settings) -> bytes:
    """What the scores are a function of, as JSON."""
    content = files.sha256_file(settings.checkpoint) if os.path.exists(settings.checkpoint) else settings.checkpoint
    return canonical_json(
        {
            "pool": sealed.digest,
            "model": settings.model,
            "checkpoint": content,
            "device": settings.device.partition(":")[0],
            "precision": settings.precision,
            **models.recorded(settings.model, settings.checkpoint),
        }
    )


def _column(name: str) -> str:
    return f"clip_{name}_similarity_score"


def _names(name: str) -> set[str]:
    """The column and the arrays of a model's name."""
    return {_column(name), *(f"{name}_{part}" for part in PARTS)}


def _found(path: str, name: str) -> tuple[set[str], bytes | None]:
    """Which of `_names` a metadata file and the npz beside it hold, and the column's mark if it has one."""
    schema = pq.read_schema(path)
    there, beside = set(schema.names), Path(path).with_suffix(".npz")
    mark = (schema.field(_column(name)).metadata or {}).get(MARK) if _column(name) in there else None
    if beside.exists():
        try:
            with zipfile.ZipFile(beside) as archive:
                there.update(name.removesuffix(".npy") for name in archive.namelist())
        except (OSError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{beside}: not a readable npz file: {error}") from error
    return there & _names(name), mark


def _require_own(paths: list[str], name: str) -> None:
    """ConfigError if a metadata file holds, under this name, what this module has not written."""
    for path in paths:
        there, mark = _found(path, name)
        if there and mark is None:
            raise ConfigError(
                f"setting name: {path} holds {', '.join(sorted(there))} that harness.score has not written; give "
                "another name=NAME, or overwrite=true to replace them"
            )


def _load_once(model: str, checkpoint: str, device: str) -> None:
    """Load the model where the work is done, which stays there for the shards that come to the same process."""
    _loaded(model, checkpoint, device)


def _loaded(model: str, checkpoint: str, device: str) -> tuple[Any, Any, Any]:
    return _load(model, checkpoint, device, files.stamp(checkpoint) if os.path.exists(checkpoint) else "")


@lru_cache(maxsize=1)
def _load(model: str, checkpoint: str, device: str, stamp: str) -> tuple[Any, Any, Any]:
    """The model, its transform and its tokenizer; `stamp` changes with the checkpoint's file."""
    settle(torch.device(device), fast=False)
    return models.load(model, checkpoint).to(device), models.eval_transform(model, checkpoint), models.tokenizer(model)


def embed_pictures(
    pictures: Iterable[Image.Image],
    *,
    model: str,
    checkpoint: str,
    device: str = "auto",
    precision: Precision | None = None,
    batch_size: int = 256,
) -> Half:
    """Normalised embeddings (N, width) of pictures, as `score` stores them."""
    picked = pick(device, setting="device")
    loaded = _loaded(model, checkpoint, str(picked))
    left, parts = iter(pictures), []
    with ThreadPoolExecutor(4) as threads, torch.inference_mode():
        while batch := list(itertools.islice(left, batch_size)):
            with autocast(precision or _usual_precision(picked), picked):
                parts.append(_half(_encode_pictures(loaded, batch, picked, threads), checkpoint))
    width = loaded[0].visual.output_dim
    return np.concatenate(parts) if parts else np.empty((0, width), np.float16)


def _usual_precision(device: torch.device) -> Precision:
    return "fp32" if device.type == "cpu" else "amp_bfloat16"


def _encode_pictures(
    loaded: Any, batch: list[Image.Image], device: torch.device, threads: ThreadPoolExecutor
) -> torch.Tensor:
    model, transform, _ = loaded
    found: torch.Tensor = model.encode_image(
        torch.stack(list(threads.map(transform, batch))).to(device), normalize=True
    )
    return found


def _half(embeddings: torch.Tensor, checkpoint: str) -> Half:
    found: Half = embeddings.float().cpu().numpy().astype(np.float16)
    # What is no number would pass for the score of a pair that could not be downloaded.
    if not np.isfinite(found).all():
        raise StageError(f"{checkpoint}: gives embeddings that are not finite; its weights are broken or overflow")
    return found


def _score_shard(path: str, seal_dir: str, settings: Settings, folder: str, shard: int) -> None:
    out = Path(folder) / f"{shard:08d}.npz"
    if out.exists():
        return
    sealed = SealedPool.open(path, seal_dir)
    parts = list(_embedded(sealed, shard, settings))
    content = io.BytesIO()
    arrays: dict[str, Any] = {
        part: np.concatenate([found[place] for found in parts]) for place, part in enumerate(PARTS)
    }
    np.savez(content, **arrays)
    files.write_bytes(out, content.getvalue())


def _embedded(sealed: SealedPool, shard: int, settings: Settings) -> Iterator[tuple[Half, Half]]:
    """Normalised embeddings of pictures and captions (n, width) of the shard's pairs, batch by batch."""
    device = torch.device(settings.device)
    precision = settings.precision or _usual_precision(device)
    loaded = _loaded(settings.model, settings.checkpoint, settings.device)
    model, _, tokenize = loaded
    index = sealed.index(shard)
    with Reader(sealed.shards[shard]) as reader, ThreadPoolExecutor(4) as threads, torch.inference_mode():
        for start in range(0, len(index), settings.batch_size):
            pairs = [read_sample(reader, entry) for entry in index[start : start + settings.batch_size]]
            pictures = list(threads.map(lambda pair: images.decode(pair[0]), pairs))
            tokens = tokenize([caption for _, caption in pairs])
            with autocast(precision, device):
                found = (
                    _encode_pictures(loaded, pictures, device, threads),
                    model.encode_text(tokens.to(device), normalize=True),
                )
            yield _half(found[0], settings.checkpoint), _half(found[1], settings.checkpoint)


class _Scored:
    """The embeddings of all shards, found by uid."""

    def __init__(self, sealed: SealedPool, folder: Path) -> None:
        self._sealed, self._folder = sealed, folder
        self._order = uid.argsort(np.asarray(sealed.uids))
        self._sorted = np.asarray(sealed.uids)[self._order]
        with np.load(next(folder.glob("*.npz")), allow_pickle=False) as arrays:
            self._widths = {part: arrays[part].shape[1] for part in PARTS}

    def rows(self, uids: uid.Uids) -> tuple[npt.NDArray[np.bool_], dict[str, Half]]:
        """Which of `uids` (N,) are in the pool, and the embeddings (N, width) of those; zeros for the others."""
        place = uid.find(self._sorted, uids)
        known = place >= 0
        pool_row = self._order[place]
        shard = np.searchsorted(self._sealed.borders, pool_row, side="right") - 1
        found = {part: np.zeros((len(uids), width), np.float16) for part, width in self._widths.items()}
        for number in np.unique(shard[known]).tolist():
            with np.load(self._folder / f"{number:08d}.npz", allow_pickle=False) as arrays:
                mine = known & (shard == number)
                for part in PARTS:
                    found[part][mine] = arrays[part][pool_row[mine] - self._sealed.borders[number]]
        return known, found

    def write_beside(self, path: str, name: str, mark: bytes) -> None:
        """Add this model's column to the parquet file and its arrays to the npz beside it, each atomically."""
        table = pq.read_table(path)
        known, found = self.rows(uids_of(MetadataFile(path, table.num_rows), {}))
        products = np.einsum("nw,nw->n", *(found[part].astype(np.float32) for part in PARTS))
        scores = np.where(known, products, np.nan).astype(np.float16).astype(np.float32)
        column = pa.field(_column(name), pa.float32(), metadata={MARK: mark})
        if column.name in table.column_names:
            table = table.drop_columns([column.name])
        # The column comes last: its mark means that the arrays are there, too.
        _write_arrays(Path(path).with_suffix(".npz"), {f"{name}_{part}": found[part] for part in PARTS})
        with atomic_path(path) as temporary:
            pq.write_table(table.append_column(column, pa.array(scores)), temporary)


def _write_arrays(path: Path, arrays: dict[str, Half]) -> None:
    """Write `arrays` to the npz file `path`, beside what others wrote there, which is copied as it is."""
    with atomic_path(path) as temporary, npz.reading(str(path)), zipfile.ZipFile(temporary, "w") as new:
        if path.exists():
            with zipfile.ZipFile(path) as old:
                for member in old.infolist():
                    if member.filename.removesuffix(".npy") not in arrays:
                        _copy_member(old, member, new)
        for name, array in arrays.items():
            with new.open(f"{name}.npy", "w", force_zip64=True) as target:
                np.lib.format.write_array(target, array, allow_pickle=False)


def _copy_member(old: zipfile.ZipFile, member: zipfile.ZipInfo, new: zipfile.ZipFile) -> None:
    """Never decoded: a member may hold objects, which only a pickle could read."""
    copied = zipfile.ZipInfo(member.filename, member.date_time)
    copied.compress_type = member.compress_type
    with old.open(member) as source, new.open(copied, "w", force_zip64=True) as target:
        shutil.copyfileobj(source, target, files.CHUNK)


def command(argv: list[str]) -> None:
    """Score a pool."""
    settings = cli.settings(argv, Settings)
    sealed = SealedPool.open(settings.pool.path, settings.pool.seal_dir)
    # One process drives a device; Ray gives each task one of its own.
    workers = executors.ray_for_models(settings.device) if settings.executor == "ray" else executors.local(1)
    score(sealed, settings, executor=workers)
    say(f"{settings.pool.path}: scored with {settings.model} as {settings.name}")
    sys.stdout.write(f"{_column(settings.name)}\n")


if __name__ == "__main__":
    # Under its own name: what is sent from __main__ travels by value, and each task would load the model anew.
    cli.main(importlib.import_module("harness.score").command)
