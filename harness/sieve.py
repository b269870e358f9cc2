"""A bound on cosines from a few numbers a row, so that most pairs need no whole product.

Embeddings are turned so that a few axes hold most of their length. What the other axes can add to the inner product
of two rows is at most the product of the lengths that are left there (Cauchy and Schwarz), so the bound is an inner
product itself: of the coordinates on the first axes and that length. Nothing is lost: pairs whose bound is high are
multiplied whole (FEXIPRO: Li, Chan, Yiu and Mamoulis 2017).
"""

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]

MARGIN = 1e-4
"""More than the rounding of a bound in float32."""
_SAMPLE = 2048
"""Rows of each side that the axes and their number are chosen by."""
_WIDTHS = (8, 16, 32, 64, 128, 256)
_GATHERED = 64
"""What a multiplication costs for single pairs, against one in a product of blocks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sieve:
    """Axes (D, K) float32 at right angles; K < D."""

    axes: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, queries: Floats, table: Floats, *, least: float) -> Self | None:
        """The sieve with which pairs of a cosine of at least `least` cost least work; None if none halves it.

        `queries` (n, D) and `table` (m, D) are samples of the two sides, float32 at length one, zero or NaN.
        """
        rows = np.concatenate([queries, table]).astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        _, axes = np.linalg.eigh(rows.T @ rows)
        axes = axes[:, ::-1].astype(np.float32)  # those that hold most come first
        width = len(axes)
        best, work = None, width / 2
        for few in (few for few in _WIDTHS if few < width):
            sieve = cls(np.ascontiguousarray(axes[:, :few]))
            passed = sieve.bounded(queries) @ sieve.bounded(table).T >= least - MARGIN
            cost = few + 1 + _GATHERED * width * float(passed.mean())
            if cost < work:
                best, work = sieve, cost
        return best

    def bounded(self, rows: Floats) -> npt.NDArray[np.float32]:
        """(N, K + 1) float32, of which inner products are at least those of `rows` (N, D), float32."""
        few = rows @ self.axes
        left = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", few, few)
        # What rounding takes from the length left is less than this, and it is added where it counts: near zero.
        return np.column_stack([few, np.sqrt(np.maximum(left, 0) + np.float32(MARGIN / 16))])


def sample(rows: Floats) -> Floats:
    """At most 2,048 of `rows` (N, D), evenly spaced."""
    return rows[:: max(1, -(-len(rows) // _SAMPLE))]
