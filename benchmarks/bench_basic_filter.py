"""basic_filter's rate per core, with and without language identification.

python benchmarks/bench_basic_filter.py [rows=400000]
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pools

from baselines import basic_filter
from harness import Pool, executor, language


def seconds(pool: Pool, model: str) -> float:
    """One pass of the filter on one core."""
    columns = ["text", "original_width", "original_height"]
    started = time.perf_counter()
    pool.filter(partial(basic_filter._keep, model), columns=columns)
    return time.perf_counter() - started


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rows = int(settings.get("rows", 400_000))
    model = language.fasttext().model
    with tempfile.TemporaryDirectory() as folder:
        pools.make_pool(Path(folder), rows=rows)
        pool = Pool.open(folder, executor=executor.local(1))
        captions = [
            text for part in pool.map(lambda table: table["text"].to_pylist(), columns=["text"]) for text in part
        ]
        columns = ["original_width", "original_height"]
        sizes = np.concatenate(pool.map(lambda table: basic_filter.sizes_fit(table), columns=columns))
        left = np.flatnonzero(sizes & basic_filter.long_enough(captions))
        asked = [captions[row] for row in left]
        language.is_english(asked[:1000], model)
        with mock.patch.object(language, "and_english", lambda keep, captions, model: keep):
            plain = min(seconds(pool, model) for _ in range(3))
        whole = min(seconds(pool, model) for _ in range(3))
        started = time.perf_counter()
        language.is_english(asked, model)
        alone = time.perf_counter() - started
    print(f"basic_filter without language: {rows / plain:,.0f} captions/s per core (wanted 100,000)")
    print(f"basic_filter with {Path(model).name}: {rows / whole:,.0f} captions/s per core; the model alone, on the")
    print(f"  {len(asked):,} captions it is asked for: {alone / whole:.0%} of that time, {len(asked) / alone:,.0f}/s")


if __name__ == "__main__":
    main()
