"""What the order of samples costs a training process: looking the subset up in the pool, and an epoch of batches.

python benchmarks/bench_order.py [rows=12800000] [shard=10000] [kept=3840000] [epochs=1] [batch=4096]

Arithmetic alone, in seconds of one core: random uids in memory, no tar. kept=1000 epochs=12800 is a tiny subset at
`small`.
"""

import sys
import time

import numpy as np

from harness import uid
from harness.order import Order


def main() -> None:
    settings = {"rows": 12_800_000, "shard": 10_000, "kept": 3_840_000, "epochs": 1, "batch": 4096}
    settings |= {key: int(value) for key, _, value in (argument.partition("=") for argument in sys.argv[1:])}
    rows, kept = settings["rows"], settings["kept"]
    rng = np.random.default_rng(0)
    pool = np.frombuffer(rng.bytes(16 * rows), dtype=uid.UID_DTYPE)
    subset = uid.sort(pool[np.sort(rng.permutation(rows)[:kept])])
    borders = np.append(np.arange(0, rows, settings["shard"]), rows)
    started = time.process_time()
    order = Order(
        pool, borders, subset, seed=0, batch_size=settings["batch"], samples_seen=kept * settings["epochs"]
    )  # fmt: skip
    built = time.process_time()
    fed = sum(len(order.batch(k)) for k in range(order.batches))
    done = time.process_time()
    print(
        f"{kept:,} of {rows:,} in {len(borders) - 1:,} shards: looked up in {built - started:.1f} s, then "
        f"{settings['epochs']:,} epochs ({fed:,} samples) in {done - built:.1f} s"
    )


if __name__ == "__main__":
    main()
