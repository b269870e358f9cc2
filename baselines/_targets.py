"""Centroids of the pool and which of them ImageNet-1k's training images fall on, for the image-based baselines."""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import ArtifactError, Pool, SelectionContext, assets, centroids
from harness.nearest import nearest

PARTS = 5
"""Files of the published ImageNet-1k embeddings."""
FEATURES = "l14_img"
WIDTH = 768
"""Of the published embeddings and centroids."""


def centroids_and_targets(
    pool: Pool, ctx: SelectionContext, given: str | None, clusters: int | None
) -> tuple[str, npt.NDArray[np.bool_]]:
    """Path of the centroids (K, width), and (K,) which of them are the centroid of a target embedding."""
    path = given or _published(ctx, clusters) or _own(pool, ctx, clusters)
    points = np.load(path, mmap_mode="r", allow_pickle=False)
    if points.ndim != 2 or points.dtype != np.float32:
        raise ArtifactError(f"{path}: shape {points.shape}, dtype {points.dtype}; centroids are (K, width) float32")
    targets = _target_embeddings(pool, ctx, points.shape[1])
    wanted = np.zeros(len(points), dtype=bool)
    with ctx.progress("targets", total=len(targets), unit="images") as bar:
        for start in range(0, len(targets), 8192):
            part = targets[start : start + 8192]
            wanted[nearest(part, points)] = True
            bar.advance(len(part))
    return str(path), wanted


def _published(ctx: SelectionContext, clusters: int | None) -> Path | None:
    """The published centroids of the scale as npy in the scratch folder; None where they do not exist."""
    name = f"{ctx.scale.name}_centroids"
    if clusters is not None or name not in assets.ASSETS:
        return None
    found = assets.fetch(name)
    if found is None:
        ctx.remark(f"the published {name} were out of reach, so the pool's own stand in")
        return None
    ctx.remark(f"centroids: the published {name}")
    path = ctx.scratch / "centroids.npy"
    centroids.save(str(path), _pickled_array(found))
    return path


def _own(pool: Pool, ctx: SelectionContext, clusters: int | None) -> Path:
    path = ctx.scratch / "centroids.npy"
    if not path.exists():
        found = centroids.of_pool(pool, key=FEATURES, clusters=clusters)
        centroids.save(str(path), found)
    ctx.remark(f"centroids: {len(np.load(path, mmap_mode='r'))} of the pool's own")
    return path


def _target_embeddings(pool: Pool, ctx: SelectionContext, width: int) -> npt.NDArray[Any]:
    """Embeddings (N, width) of ImageNet-1k's training images, or of the train split that the pool offers."""
    offered = _offered(pool)
    if offered is None:
        parts = [assets.fetch(f"in1k_clip_vit_l14_{part}") for part in range(PARTS)]
        if any(part is None for part in parts):
            raise ArtifactError(
                f"{pool.path}/targets/train.npz: there is none, and the published ImageNet-1k embeddings are out of "
                "reach; image_based needs the one or the other"
            )
        ctx.remark("targets: the published ImageNet-1k embeddings")
        offered = np.concatenate([np.asarray(_tensor(part, "image_features")) for part in parts if part])
    else:
        ctx.remark("targets: the train split that the pool offers")
    if offered.ndim != 2 or offered.shape[1] != width:
        raise ArtifactError(f"{pool.path}: target embeddings have shape {offered.shape}, the centroids width {width}")
    return offered


def _offered(pool: Pool) -> npt.NDArray[Any] | None:
    try:
        return pool.targets("train").get(FEATURES)
    except ArtifactError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _tensor(path: Path, key: str) -> Any:
    """The tensor `key` of a published state file, loaded as data only."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)[key]


def _pickled_array(path: Path) -> npt.NDArray[np.float32]:
    """The centroids (K, 768) in a published .pt file: a NumPy array that torch saved as a pickle.

    Nothing is unpickled: the longest string of bytes among the pickle's opcodes is the array's content.
    """
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        opcodes = pickletools.genops(archive.read(name))
        content = max((argument for _, argument, _ in opcodes if isinstance(argument, bytes)), key=len)
    return np.frombuffer(content, dtype="<f4").reshape(-1, WIDTH)
