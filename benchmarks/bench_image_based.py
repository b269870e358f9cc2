"""Assigning embeddings to centroids, beside a bare matrix product of the same size.

python benchmarks/bench_image_based.py [rows=100000] [centroids=100000] [width=768]
"""

import sys
import time

import numpy as np

from harness.nearest import nearest


def main() -> None:
    settings = {key: int(value) for key, value in (argument.split("=", 1) for argument in sys.argv[1:])}
    rows, count = settings.get("rows", 100_000), settings.get("centroids", 100_000)
    width = settings.get("width", 768)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, width)).astype(np.float16)
    centroids = rng.normal(size=(count, width)).astype(np.float32)
    points = features.astype(np.float32)
    # The whole product would take rows * centroids * 4 bytes, so it is made in slabs that are thrown away.
    slab = max(1, (1 << 28) // count)
    nearest(features[:slab], centroids)
    product, ours = 0.0, 0.0
    found = []
    for start in range(0, rows, slab):
        # Turn by turn, so that whatever else this machine does falls on both alike.
        began = time.perf_counter()
        points[start : start + slab] @ centroids.T
        middle = time.perf_counter()
        found.append(nearest(features[start : start + slab], centroids))
        product, ours = product + middle - began, ours + time.perf_counter() - middle
    gflops = 2 * rows * count * width / product / 1e9
    print(f"image_based, {rows:,} samples to {count:,} centroids of width {width}: {ours:.1f} s, {rows / ours:,.0f}/s")
    print(
        f"bare product: {product:.1f} s ({gflops:.0f} GFLOP/s); ours takes {ours / product:.2f} times that (wanted 1.5)"
    )
    check = rng.choice(rows, min(rows, 50), replace=False)
    same = np.concatenate(found)[check] == (points[check] @ centroids.T).argmax(axis=1)
    print(f"{same.mean():.0%} of {len(check)} checked assignments equal those of the product")


if __name__ == "__main__":
    main()
