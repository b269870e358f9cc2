"""How fast a pool is sealed: walking the tars alone, and with every picture decoded.

    python benchmarks/bench_seal.py [FOLDER] [--real POOL]

The walk (headers, json, caption) is measured on 100,000 made samples on one core; decoding on a pool of real
pictures, where the decoder alone is measured beside it: that is the limit.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

from made_pool import make_pool

from harness import executor, images, tars
from harness.files import list_files
from harness.pool.seal import seal

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="where the made pool is kept")
    parser.add_argument("--real", help="a pool of real pictures, to measure sealing with the decoder")
    chosen = parser.parse_args()
    shards = list_files(make_pool(Path(chosen.folder)) / "shards", ".tar")
    rates = []
    for _ in range(ROUNDS):
        started, samples = time.process_time(), 0
        for path in shards:
            found, faults = tars.index_tar(path)
            samples += len(found)
        rates.append(samples / (time.process_time() - started))
    print(f"walk    {samples:,} samples, {len(faults)} faults: {statistics.median(rates):,.0f} samples/s/core "
          f"(best {max(rates):,.0f}); goal 30,000")  # fmt: skip
    if chosen.real:
        _decode(chosen.real)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def _decode(pool: str) -> None:
    one = executor.local(1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        sealed = seal(pool, seal_dir=folder, executor=one)
        whole = time.process_time() - started
    started = time.process_time()
    for shard, path in enumerate(sealed.shards):
        samples, _ = tars.index_tar(path)
        with tars.Reader(path) as reader:
            for entry in samples:
                images.decode(reader.exactly(int(entry["image"]), int(entry["image_size"])))
        del shard
    alone = time.process_time() - started
    print(f"seal    {len(sealed):,} real pictures: {len(sealed) / whole:,.0f} samples/s/core; walk and decoder alone "
          f"{len(sealed) / alone:,.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
