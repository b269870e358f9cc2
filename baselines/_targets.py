"""Embeddings of what evaluation wants (train splits only), and the pool's centroids that they fall on."""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from baselines import _scores
from baselines._clusters import ROWS_A_CLUSTER
from harness import ArtifactError, Pool, SelectionContext, assets, centroids, npy
from harness.files import sha256_file
from harness.nearest import nearest, unit

PARTS = 5
"""Files of the published ImageNet-1k embeddings."""
FEATURES = "l14_img"
WIDTH = 768
"""Of the published embeddings and centroids."""
BOUNDED = 1024
"""Centroids of a pool's own at most, by default, where their cost must not grow with the pool."""


def centroids_and_hits(
    pool: Pool, ctx: SelectionContext, given: str | None, clusters: int | None, *, bounded: bool = False
) -> tuple[str, npt.NDArray[np.int64]]:
    """Path of the centroids (K, width), and (K,) of how many target embeddings each is the nearest centroid.

    The pool's own are made as the reference makes them, whose memory and time grow with the pool; with `bounded` there
    are at most 1,024 unless `clusters` says otherwise, and k-means sees a draw of 256 rows for each (0.8 GB at 768
    wide). A pool of less than 262,144 pairs is seen whole.
    """
    width = next((part.shape[1] for part in pool.features(FEATURES)), WIDTH)
    path = given or (_published(ctx, clusters) if width == WIDTH else None)
    if path is None:
        embeddings(pool, ctx)  # an error before the centroids are made, which takes long
    path = path or _own(pool, ctx, clusters, bounded)
    points = npy.load(path, dtype=np.float32, ndim=2)
    if points.shape[1] != width:
        raise ArtifactError(
            f"{path}: the centroids are {points.shape[1]} wide, {FEATURES} of {pool.path} are {width}; make others "
            "with `python -m harness.centroids`"
        )
    if given is not None:
        ctx.remark(f"centroids: a file of sha256 {sha256_file(given)[:16]}")
    if not np.isfinite(points).all():
        raise ArtifactError(f"{path}: some centroids are not finite; make others with `python -m harness.centroids`")
    targets = embeddings(pool, ctx)
    hits = np.zeros(len(points), dtype=np.int64)
    with ctx.progress("targets", total=len(targets), unit="images") as bar:
        for start in range(0, len(targets), 8192):
            part = targets[start : start + 8192]
            hits += np.bincount(nearest(part, points), minlength=len(points))
            bar.advance(len(part))
    return str(path), hits


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
    path = ctx.scratch / f"{name}.npy"
    centroids.save(str(path), _pickled_array(found))
    return path


def _own(pool: Pool, ctx: SelectionContext, clusters: int | None, bounded: bool) -> Path:
    sample = centroids.SAMPLES.get(ctx.scale.name, 1.0)
    if bounded:
        clusters = clusters or min(BOUNDED, centroids.usual(len(pool)))
        sample = min(sample, ROWS_A_CLUSTER * max(clusters, BOUNDED) / len(pool))
    path = ctx.scratch / f"centroids-{clusters or 'default'}.npy"
    if not path.exists():
        found = centroids.of_pool(pool, key=FEATURES, clusters=clusters, sample=sample)
        centroids.save(str(path), found)
    drawn = f", made of a {sample:.3g} of its captions" if sample < 1 else ""
    ctx.remark(f"centroids: {len(npy.load(path, ndim=2))} of the pool's own{drawn}")
    return path


def embeddings(pool: Pool, ctx: SelectionContext, name: str = FEATURES) -> npt.NDArray[Any]:
    """Embeddings `name` (N, width) of the train split that the pool offers, else of ImageNet-1k's training images."""
    offered = _offered(pool, name)
    if offered is None:
        parts = [assets.fetch(f"in1k_clip_vit_l14_{part}") for part in range(PARTS)] if name == FEATURES else [None]
        if any(part is None for part in parts):
            raise ArtifactError(
                f"{pool.path}/targets/train.npz: offers no {name}, and the published ImageNet-1k embeddings "
                f"({FEATURES}) are out of reach or do not fit; targets must come from the one or the other"
            )
        ctx.remark("targets: the published ImageNet-1k embeddings")
        offered = np.concatenate([np.asarray(_tensor(part, "image_features")) for part in parts if part])
    else:
        ctx.remark("targets: the train split that the pool offers")
    if offered.ndim != 2:
        raise ArtifactError(f"{pool.path}: target embeddings have shape {offered.shape}, expected (rows, width)")
    if not len(offered):
        raise ArtifactError(f"{pool.path}: targets/train.npz holds no row of {name}")
    if not (np.isfinite(offered).all() and offered.any(axis=1).all()):
        raise ArtifactError(
            f"{pool.path}: some target embeddings are zeros or not finite; leave those out of targets/train.npz"
        )
    _scores.require_width(pool, name, offered.shape[1], of=f"{pool.path}/targets/train.npz")
    return offered


def drawn(pool: Pool, ctx: SelectionContext, name: str, size: int) -> npt.NDArray[np.float32]:
    """At most `size` target embeddings (n, width), drawn at random, of length 1."""
    found = embeddings(pool, ctx, name)
    if len(found) > size:
        ctx.remark(f"targets: {size} of the {len(found)}, drawn at random")
        found = found[np.sort(ctx.rng.choice(len(found), size, replace=False))]
    return unit(found)


def _offered(pool: Pool, name: str) -> npt.NDArray[Any] | None:
    try:
        return pool.targets("train").get(name)
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
