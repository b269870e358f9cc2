"""Whole selections on a pool as large as `small`: wall and processor time and memory of each method.

    python benchmarks/bench_methods.py folder=DIR [rows=12800000] [width=768] [towers=2] [methods=metaclip,dsir]
                                       [executor=ray]

With width=768 the pool has embeddings of pictures, too (20 GB at 12.8 million rows, around 1,000 centres), and the
methods that cluster and compare them take part; with towers=2 also embeddings of captions (as much again) and the
methods that compare both. Each is one `python -m harness.select`, start-up included.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pools import WORDS, make_pool
from whole import run

CENTRES, TARGETS, TEXTS = 1_000, 2_048, 20_000
NOISE = 1 << 16
"""Rows of noise that all embeddings share."""
SAME = ("uid", "exact", "near")
"""Columns of a table of harness.duplicates."""
CAPTIONS = {
    "random_subset": [], "metaclip": [], "metaclip (all nouns)": ["method.concepts=wordnet"], "concept_balance": [],
    "dsir": ["method.texts={texts}"], "perplexity": ["method.texts={texts}"], "caption_dedup": [], "score_sampling": [],
    "compute_aware": [], "fusion": ["method.of=[clip_score,{{column: clip_b32_similarity_score}}]"],
    "good_vs_random (captions)": ["method.on=captions"], "phash_dedup": [],
}  # fmt: skip
"""Method, and what it is told."""
PICTURES = {
    "normsim": [], "rds_plus": [], "simcore": [], "dp4tl": [], "prototypes": ["method.clusters=1000"],
    "density_pruning": ["method.clusters=1000"], "codebook": ["method.clusters=1000"],
    "semdedup": ["method.clusters=1000"],
}  # fmt: skip
PAIRS = {
    "good_vs_random": [], "dfn_head": [], "color_filter": [], "negcliploss": [],
    "cluster_bandit": ["method.clusters=1000", "method.pulls=10000"], "cluster_reweighting": ["method.clusters=1000"],
    "cluster_mixture": ["method.clusters=1000", "method.candidate=0"],
}  # fmt: skip


def embed(folder: Path, *, width: int, towers: int) -> None:
    """An npz beside each metadata file, and embeddings of a target."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(CENTRES, width)).astype(np.float32)
    noise = rng.normal(size=(NOISE, width)).astype(np.float32)

    def rows(of: np.ndarray) -> np.ndarray:
        found = centres[of] + noise[rng.integers(0, NOISE, len(of))]
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)

    def blocks(of: np.ndarray) -> np.ndarray:
        return np.concatenate([rows(of[start : start + NOISE]) for start in range(0, len(of), NOISE)])

    told, made = folder / "embeddings.txt", f"{width} wide, {towers} towers\n"
    if told.exists() and told.read_text() != made:
        sys.exit(f"{folder}: its embeddings are {told.read_text().strip()}; remove its npz files and {told.name}")
    told.write_text(made)
    (folder / "targets").mkdir(exist_ok=True)
    np.savez(folder / "targets" / "train.npz", l14_img=rows(rng.integers(0, CENTRES, TARGETS)))
    for path in sorted((folder / "metadata").glob("*.parquet")):
        if not path.with_suffix(".npz").exists():
            of = rng.integers(0, CENTRES, pq.read_metadata(path).num_rows)  # a pair's picture and caption share it
            held = {key: blocks(of) for key in ("l14_img", "l14_txt")[:towers]}
            np.savez(path.with_suffix(".tmp.npz"), **held)
            os.replace(path.with_suffix(".tmp.npz"), path.with_suffix(".npz"))


def repeat(folder: Path) -> None:
    """What harness.duplicates would write beside the pool if every sixth picture were near to the one before it."""
    path = folder / "duplicates.parquet"
    if path.exists():
        return
    with pq.ParquetWriter(path.with_suffix(".tmp"), pa.schema([(name, pa.string()) for name in SAME])) as out:
        for metadata in sorted((folder / "metadata").glob("*.parquet")):
            uids = pq.read_table(metadata, columns=["uid"])["uid"].combine_chunks()
            rows = np.arange(len(uids))
            near = uids.take(pa.array(np.where(rows % 6 == 5, rows - 1, rows)))
            out.write_table(pa.table({"uid": uids, "exact": uids, "near": near}))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if wrong := given.keys() - {"folder", "rows", "width", "towers", "methods", "executor"}:
        sys.exit(f"unknown setting {min(wrong)}")
    rows, width, towers = (int(given.get(k, v)) for k, v in (("rows", 12_800_000), ("width", 0), ("towers", 1)))
    pool = make_pool(Path(given["folder"]), rows=rows)
    repeat(pool)
    if width:
        embed(pool, width=width, towers=towers)
    wanted = CAPTIONS | (PICTURES if width else {}) | (PAIRS if width and towers > 1 else {})
    names = given["methods"].split(",") if "methods" in given else list(wanted)
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.txt"
        rng = np.random.default_rng(3)
        texts.write_text("".join(" ".join(rng.choice(WORDS, 9)) + "\n" for _ in range(TEXTS)))
        for name in names:
            measure(name, [part.format(texts=texts) for part in wanted[name]], pool, given.get("executor", "local"))


def measure(name: str, told: list[str], pool: Path, executor: str) -> None:
    """Print what one selection took."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "harness.select", f"pool.path={pool}", f"method={name.partition(' ')[0]}",
                   *told, f"executor={executor}", f"out={out}/uids.npy"]  # fmt: skip
        with open(f"{out}/log", "w") as log:
            code, took = run(command, log=log)
        if code:
            print(f"{name}: {Path(out, 'log').read_text().strip().splitlines()[-1]}", flush=True)
            return
        kept = len(np.load(f"{out}/uids.npy", mmap_mode="r"))
    print(f"{name}: {kept:,} kept, {took}", flush=True)


if __name__ == "__main__":
    main()
