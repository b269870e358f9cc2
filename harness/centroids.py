"""Centroids of a pool's image embeddings, for image_based where the published ones do not fit.

    python -m harness.centroids pool.path=DIR out=centroids.npy [clusters=100000] [key=l14_img] [sample=0.3]

L2 k-means by faiss, 20 iterations, seed 0, as the reference makes them: on captions that pass its caption filter,
of which `sample` is drawn (the reference takes 0.3 at large and 0.03 at xlarge).
"""

import sys
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness import cli, executor, files, language, npy, uid
from harness.errors import ArtifactError
from harness.pool.reading import from_strings
from harness.pool.view import Pool
from harness.progress import say
from harness.records import StrictModel

Floats = npt.NDArray[Any]
Start = Literal["random", "spread"]
ITERATIONS = 20
CLUSTERS = 100_000
SAMPLES = {"large": 0.3, "xlarge": 0.03}
"""Scale to the fraction of the captions that the reference draws there; elsewhere it takes all."""
ROUNDING = 0.01
"""What a length of 1 is off by in float16 at most, with room to spare."""
ROWS_A_CLUSTER = 128
"""Rows of the whole pool for each centroid where their number is not given: the reference's ratio at small."""


def of_pool(
    pool: Pool,
    *,
    captions: Literal["filtered", "all"] = "filtered",
    key: str = "l14_img",
    clusters: int | None = None,
    sample: float = 1.0,
    seed: int = 0,
    start: Start = "random",
    directions: bool = False,
) -> npt.NDArray[np.float32]:
    """Centroids (K, D) float32 of the pool's embeddings `key`.

    `captions`: all pairs take part, or those that pass the caption filter; `sample`: which fraction of them. A pair
    whose embedding is zeros or not finite does not. `clusters` None: one for every 128 pairs of the pool, 100,000 at
    most. `directions`: rows count with length 1, whatever theirs is. Raises ArtifactError if fewer rows than clusters
    are left.
    """
    wanted = clusters or usual(len(pool))
    model = language.fasttext().model if captions == "filtered" else None
    parts = pool.map(partial(_rows, model, key, sample, seed), columns=["uid", "text"], features=[key], rows=1 << 15,
                     name="embeddings")  # fmt: skip
    # Parts stay as they are stored, so that only their whole is float32.
    rows = np.concatenate(parts, dtype=np.float32) if parts else np.empty((0, 1), dtype=np.float32)
    del parts
    if directions:
        _scale(rows)
    if len(rows) < wanted:
        raise ArtifactError(
            f"{pool.path}: {len(rows)} pairs with a finite {key}{' and a fitting caption' if model else ''} take part, "
            f"too few for {wanted} centroids; ask for fewer"
        )
    return kmeans(rows, wanted, seed=seed, start=start)


def _scale(rows: npt.NDArray[np.float32]) -> None:
    """Bring rows (N, D) to length 1 in place; those whose length is 1 but for the storage's rounding are left alone."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    other = np.abs(lengths - 1) > ROUNDING
    rows[other] /= lengths[other, None]


def usual(pairs: int) -> int:
    """How many centroids a pool of so many pairs has where nobody says: one for every 128, 1 to 100,000."""
    return max(1, min(CLUSTERS, pairs // ROWS_A_CLUSTER))


def kmeans(rows: Floats, clusters: int, *, seed: int = 0, start: Start = "random") -> npt.NDArray[np.float32]:
    """L2 k-means: centroids (clusters, D) of `rows` (N, D), 20 iterations; on the GPUs that faiss sees.

    `start`: rows drawn at random, as the reference does, or far from each other (k-means++), where the clusters count.
    """
    import faiss

    work = faiss.Clustering(rows.shape[1], clusters)
    if start == "spread":
        work.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    work.niter, work.seed, work.verbose = ITERATIONS, seed, False
    # All rows take part, as in the reference: faiss would draw 256 a centroid.
    work.max_points_per_centroid = len(rows) + 1
    work.min_points_per_centroid = 1
    index: Any = faiss.IndexFlatL2(rows.shape[1])
    if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    work.train(np.ascontiguousarray(rows, dtype=np.float32), index)
    found: npt.NDArray[np.float32] = faiss.vector_float_to_array(work.centroids)
    return found.reshape(clusters, rows.shape[1]).copy()


def _rows(model: str | None, key: str, sample: float, seed: int, table: Any, features: Any) -> Floats:
    drawn = np.ones(table.num_rows, dtype=bool)
    if sample < 1:
        # A draw that hangs on the rows alone: the first half of their first uid seeds it.
        first, wrong = from_strings(table["uid"].slice(0, 1))
        if wrong >= 0:
            raise uid.NotUidError(f"{table['uid'][0].as_py()!r} is not a uid of 32 lower-case hex characters")
        drawn = np.random.default_rng([seed, int(first["f0"][0])]).random(len(drawn)) < sample
    chosen = np.flatnonzero(drawn)
    if model is not None:
        chosen = chosen[language.passes_caption_filter(table["text"].take(chosen).to_pylist(), model)]
    rows = features[key][chosen]
    found: Floats = rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]
    return found


def save(path: str, centroids: npt.NDArray[np.float32]) -> None:
    """Write centroids (K, D) float32 as npy, atomically."""
    npy.save(path, centroids.astype(np.float32, copy=False))


class _PoolPath(StrictModel):
    path: str


class Settings(StrictModel):
    """Make the centroids of a pool's image embeddings."""

    pool: _PoolPath
    out: str = Field(description="the npy file to write, (clusters, width) float32")
    clusters: int | None = Field(default=None, gt=0, description="number of centroids; one for 128 pairs by default")
    key: str = Field(default="l14_img", description="embeddings to cluster")
    sample: float = Field(default=1.0, gt=0, le=1, description="fraction of the rows that takes part")
    seed: int = Field(default=0, ge=0)
    captions: Literal["filtered", "all"] = Field(default="filtered", description="which captions take part")


def command(argv: list[str]) -> None:
    """Make and write centroids."""
    settings = cli.settings(argv, Settings)
    files.require_writable(settings.out)
    pool = Pool.open(settings.pool.path, executor=executor.local())
    found = of_pool(
        pool,
        captions=settings.captions,
        key=settings.key,
        clusters=settings.clusters,
        sample=settings.sample,
        seed=settings.seed,
    )
    save(settings.out, found)
    say(f"{settings.out}: {found.shape[0]:,} centroids of width {found.shape[1]}")
    sys.stdout.write(f"{settings.out}\n")


if __name__ == "__main__":
    cli.main(command)
