"""Rows a second and core of the methods that score stored embeddings, without reading them.

python benchmarks/bench_scores.py [rows=32768] [width=768]
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from baselines import _scores, _turns, color_filter, dfn_head, good_vs_random, negcliploss, normsim
from harness.uid import UID_DTYPE

POOL = 12_800_000
NAMES = ["l14_img", "l14_txt"]


def main() -> None:
    settings = {key: int(value) for key, value in (argument.split("=", 1) for argument in sys.argv[1:])}
    rows, width = settings.get("rows", 32_768), settings.get("width", 768)
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(rows, width)).astype(np.float16) for name in NAMES}
    table = pa.table({"uid": [f"{row:032x}" for row in range(rows)]})

    def units(count: int) -> _scores.Floats:
        return _scores.unit(rng.normal(size=(count, width)))

    head = np.eye(width, dtype=np.float32)
    batch = np.zeros(2048, UID_DTYPE)
    batch["f1"] = np.arange(2048)
    work: dict[str, Callable[..., Any]] = {
        "dfn_head": partial(dfn_head._cosines, head, NAMES),
        "color_filter, 512 against": partial(color_filter._reduction, head, head, (units(512), units(512)), NAMES),
        "negcliploss, batch 2,048": partial(negcliploss._negative_loss, batch, (units(2048), units(2048)), 0.01, NAMES),
        "normsim max, 2,048 targets": partial(normsim._largest, units(2048), "l14_img"),
        "normsim l2": partial(normsim._root_mean_square, head, "l14_img"),
        "good_vs_random": partial(good_vs_random._log_odds, np.ones(3 * width + 1, np.float32), NAMES),
    }
    passes = {name: partial(_scores._by_blocks, fn, table) for name, fn in work.items()}
    passes["rds_plus, 2,048 targets"] = partial(_turns._nearest, units(2048), "l14_img", table)
    passes["simcore, 100 clusters"] = partial(_turns._nearest, units(100), "l14_img", table)
    for name, run in passes.items():
        began = time.process_time()
        run(features)
        rate = rows / (time.process_time() - began)
        print(f"{name}: {rate:,.0f} rows/s and core; {POOL:,} rows on two cores: {POOL / rate / 2 / 60:.1f} min")


if __name__ == "__main__":
    main()
