"""Pools whose rows are given, for tests of methods on data with a known answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from metadata_pool import uid_hex, write_file

from harness import Pool, SelectionContext, Subset, executor, uid
from harness.config import MethodConfig, load_scale
from harness.selection import plugins, run

WIDTH = 16
ROWS = 600


def plant(
    folder: Path,
    *,
    texts: Sequence[str] | None = None,
    scores: Any = None,
    features: Mapping[str, Any] | None = None,
    files: int = 3,
) -> Pool:
    """A pool of `files` metadata files whose row i has texts[i], scores[i] (l14) and features[name][i]; uid i."""
    given = [column for column in (texts, scores, *(features or {}).values()) if column is not None]
    rows = len(given[0])
    texts = [""] * rows if texts is None else texts
    scores = np.zeros(rows) if scores is None else np.asarray(scores)
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        path = folder / "metadata" / f"{number:032x}.parquet"
        write_file(path, {
            "uid": [uid_hex(row) for row in part],
            "text": [texts[row] for row in part],
            "clip_l14_similarity_score": scores[part].astype(np.float32),
        })  # fmt: skip
        np.savez(
            path.with_suffix(".npz"), **{k: np.asarray(v)[part].astype(np.float16) for k, v in (features or {}).items()}
        )
    return Pool.open(folder, executor=executor.local(1))


def context(folder: Path, *, seed: int = 0, samples_seen: int | None = None) -> SelectionContext:
    """What the harness gives a method: scale tiny, and `folder` (made) to scratch in."""
    scale = load_scale("tiny")
    folder.mkdir(parents=True, exist_ok=True)
    return SelectionContext(
        rng=np.random.default_rng(seed), scale=scale, samples_seen=samples_seen or scale.samples_seen, scratch=folder,
        executor=executor.local(1),
    )  # fmt: skip


def rows_of(pool: Pool, uids: uid.Uids) -> list[int]:
    """The rows that `uids` stand for, ascending."""
    row = {uid_hex(i): i for i in range(len(pool))}
    return sorted(row[name] for name in uid.to_hex(uids))


def write_pool(folder: Path, img: np.ndarray, txt: np.ndarray, scores: np.ndarray | None = None) -> Path:
    """A pool of these embeddings (rows, width); row i has the uid of i."""
    return Path(plant(folder, scores=scores, features={"l14_img": img, "l14_txt": txt}).path)


def write_targets(folder: Path, rows: np.ndarray) -> None:
    """Offer the embeddings `rows` (n, width) as the train split of the pool in `folder`."""
    (folder / "targets").mkdir(exist_ok=True)
    np.savez(folder / "targets" / "train.npz", l14_img=rows.astype(np.float16), label=np.zeros(len(rows), np.int64))


def uids(rows: np.ndarray) -> uid.Uids:
    """The uids of rows."""
    return uid.from_hex([uid_hex(row) for row in rows])


def chosen(folder: Path, out: Path, name: str, **params: Any) -> Subset:
    """What a method keeps of the pool in `folder`, by the way of `harness.select`; its record lies in `out`/out."""
    config = MethodConfig(name=name, params=params)
    work = executor.local(1)
    pool = Pool.open(folder, executor=work)
    return run.select(
        plugins.resolve(config), config, pool=pool, scale=load_scale("tiny"), out=out / "out", executor=work
    )


def kept_rows(subset: Subset, rows: int = ROWS) -> np.ndarray:
    """Which of the rows 0 … rows-1 a subset holds."""
    return uid.find(subset.uids, uids(np.arange(rows))) >= 0
