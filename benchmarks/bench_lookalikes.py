"""How fast evaluation pictures are looked for by cosine in a pool's embeddings: the search against products of all.

    OMP_NUM_THREADS=1 python benchmarks/bench_lookalikes.py [--rows 131072] [--pictures 50000] [--width 768]
    OMP_NUM_THREADS=1 python benchmarks/bench_lookalikes.py --features X.npz --key l14_img   # rows of a real pool

Made embeddings have half of their squared length in common; the rest falls from axis to axis as 1/i, which leaves a
third of it beyond the 64th axis of 768. Of real ones the first serve as pictures. One row in a thousand is a disturbed
copy of a picture. Hours are those of one core, for the 732,026 pictures of the 40 tasks.
"""

import argparse
import time

import numpy as np

from harness import nearest, sieve

EVAL_PICTURES = 732_026
POOLS = {"small": 12_800_000, "medium": 128_000_000, "large": 1_280_000_000, "xlarge": 12_800_000_000}
LEAST = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1 << 17)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--features", help="npz file")
    parser.add_argument("--key", default="l14_img")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    if chosen.features:
        held = np.load(chosen.features)[chosen.key]
        pictures, rows = held[: min(chosen.pictures, len(held) // 4)], held[len(held) // 4 :][: chosen.rows]
    else:
        pictures, rows = made(rng, chosen.pictures, chosen.width), made(rng, chosen.rows, chosen.width)
    rows = plant(rng, rows, pictures)
    found = sieve.Sieve.fit(nearest.unit(sieve.sample(rows)), nearest.unit(sieve.sample(pictures)), least=LEAST)
    print(f"{len(rows):,} rows and {len(pictures):,} pictures of width {rows.shape[1]}, bound from "
          f"{'all' if found is None else found.axes.shape[1]} axes")  # fmt: skip
    seconds, pairs = measured(rows, pictures)
    tell("search", seconds, rows, pictures, pairs)
    nearest._MANY = 1 << 62  # products of all, on a sixteenth of the rows
    few = rows[::16]
    whole, all_pairs = measured(few, pictures)
    tell("products of all", whole, few, pictures, all_pairs)
    flops = 2 * len(few) * len(pictures) * rows.shape[1] / whole
    print(f"{whole * len(rows) / len(few) / seconds:.1f} times as fast as products of all ({flops / 1e9:.0f} GFLOP/s); "
          f"the same pairs there: {set(all_pairs) == {(q // 16, p) for q, p in pairs if q % 16 == 0}}")  # fmt: skip


def made(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """(count, width) float16 of unit length, about."""
    spread = np.sqrt(1 / np.arange(1, width + 1))
    spread /= np.sqrt(2) * np.linalg.norm(spread)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0].astype(np.float32)
    common = np.zeros(width, np.float32)
    common[-1] = np.sqrt(0.5)
    parts = [
        (rng.normal(size=(min(8192, count - start), width)).astype(np.float32) * spread.astype(np.float32) + common)
        @ turn
        for start in range(0, count, 8192)
    ]
    return np.concatenate([part.astype(np.float16) for part in parts])


def plant(rng: np.random.Generator, rows: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """`rows` with disturbed copies of `pictures` among them."""
    rows = rows.copy()
    places = rng.choice(len(rows), max(len(rows) // 1000, 1), replace=False)
    copies = nearest.unit(pictures[rng.integers(0, len(pictures), len(places))])
    noise = nearest.unit(rng.normal(size=copies.shape)) * rng.uniform(0, 0.5, (len(places), 1))
    rows[places] = copies + noise
    return rows


def measured(rows: np.ndarray, pictures: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    """Processor seconds of the search and the pairs that it finds."""
    started, found = time.process_time(), []
    for pairs, _ in nearest.alike(rows, pictures, least=LEAST):
        found += [tuple(pair) for pair in pairs.tolist()]
    return time.process_time() - started, found


def tell(what: str, seconds: float, rows: np.ndarray, pictures: np.ndarray, pairs: list[tuple[int, int]]) -> None:
    rate = len(rows) * len(pictures) / seconds
    hours = ", ".join(f"{scale} {size * EVAL_PICTURES / rate / 3600:,.1f} h" for scale, size in POOLS.items())
    print(f"{what}: {seconds:.1f} s of processors, {rate:.3g} pairs a second, {len(pairs):,} found; one core: {hours}")


if __name__ == "__main__":
    main()
