"""Targets that take turns: each takes the nearest pair that is left to it, again and again."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baselines import _draw
from baselines._scores import BLOCK, Floats, Scores
from harness import Pool
from harness.nearest import nearest_and_product, one_thread, unit
from harness.pool.view import CHUNK


def scores(pool: Pool, targets: Floats, name: str) -> Scores:
    """Minus the turn (0, 1, 2 …) in which each pair's picture is taken by the target that it is nearest to.

    `targets` (K, width) of length 1; `name` the pool's embeddings to compare. A pair stands with its nearest target
    alone, so that one pass and two numbers a pair are enough; a target whose pairs are used up drops out.
    """
    parts = pool.map(partial(_nearest, targets, name), features=[name], rows=CHUNK, name="nearest targets")
    label, product = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return -turns(label.astype(np.int32), product)


def turns(label: npt.NDArray[np.int32], product: Floats) -> Scores:
    """The place (N,), from 0, of each row among the rows of its label, the largest product first; NaN for NaN."""
    order = np.lexsort((-product, label))
    found = np.empty(len(label), dtype=np.float32)
    found[order] = _draw.places_in_groups(label[order], int(label.max(initial=-1)) + 1)
    found[np.isnan(product)] = np.nan
    return found


def _nearest(targets: Floats, name: str, table: pa.Table, features: dict[str, Floats]) -> Floats:
    """Place of the nearest target and the cosine with it, (2, rows)."""
    parts = []
    with one_thread():
        for start in range(0, table.num_rows, BLOCK):
            rows = unit(features[name][start : start + BLOCK])
            parts.append(nearest_and_product(rows, targets))
            parts[-1][1][~rows.any(axis=1)] = np.nan  # zeros are no embedding
    label, product = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return np.stack([label.astype(np.float32), product])
