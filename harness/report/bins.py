"""Properties of pairs counted in bins, for several sets of pairs at once. Pure NumPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

WORDS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100)
CHARACTERS = (0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500)
PIXELS = (0, 64, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1500, 2000)
ASPECTS = (0, 0.33, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2, 3)
SCORE_BINS = 32
_WHOLE, _LARGE = 100, 100_000
"""From here on a border has no decimals; from there on an exponent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One property of a pair, and the bins in which its values are counted."""

    key: str
    title: str
    edges: tuple[float, ...]
    """Lower borders of the bins, ascending. Values below the first count in the first bin; the last has no end."""

    def place(self, values: Array) -> Ints:
        """Bin (N,) of each value (N,); len(edges) for NaN."""
        place = np.maximum(np.searchsorted(np.array(self.edges), values, side="right") - 1, 0)
        return np.where(np.isnan(values), len(self.edges), place).astype(np.int64)

    def count(self, values: Array, weights: Ints) -> Ints:
        """Counts (S, B + 1) of `values` (N,) in B bins, the unknown last, for S sets with `weights` (S, N)."""
        place = self.place(np.asarray(values, dtype=np.float64))
        found = [np.bincount(place, weights=weight, minlength=len(self.edges) + 1) for weight in weights]
        return np.rint(found).astype(np.int64)


def score_edges(values: Array) -> tuple[float, ...] | None:
    """Borders of equal bins between the outermost thousandths of a sample of `values`; None if none is a number."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return None
    low, high = np.quantile(known, (0.001, 0.999)).tolist()
    if low == high:
        return (low,)
    return tuple(np.linspace(low, high, SCORE_BINS, endpoint=False).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Property:
    """One property, counted."""

    key: str
    title: str
    labels: tuple[str, ...]
    """Of the bins, the unknown not among them."""
    edges: tuple[float, ...] | None
    """Lower borders of the bins; None for names (languages)."""
    counts: Mapping[str, tuple[int, ...]]
    """By set: pairs in each bin, repeats counted, and last those whose value is unknown. `kept` counts each pair of
    the subset once."""

    @property
    def known(self) -> bool:
        """Whether any pair of the pool has a value."""
        return any(self.counts["pool"][:-1])

    @property
    def kept_share(self) -> list[float | None]:
        """Share of the pool's pairs in each bin that the subset holds; None for an empty bin."""
        return [kept / of if of else None for kept, of in zip(self.counts["kept"], self.counts["pool"], strict=True)]

    def shares(self, name: str) -> list[float]:
        """Share of a set's pairs in each bin and the unknown."""
        total = sum(self.counts[name])
        return [count / total if total else 0.0 for count in self.counts[name]]

    def distance(self, name: str) -> float:
        """Total variation in [0, 1] between a set's distribution over the bins and the pool's."""
        return sum(abs(a - b) for a, b in zip(self.shares(name), self.shares("pool"), strict=True)) / 2


def of_axis(axis: Axis, names: Sequence[str], counts: Ints) -> Property:
    """The property of an axis from its counts (S, B + 1) for the sets `names` (S)."""
    return Property(
        key=axis.key, title=axis.title, labels=numbers(axis.edges), edges=axis.edges,
        counts=_by_name(names, counts),
    )  # fmt: skip


def of_names(key: str, title: str, names: Sequence[str], counts: Mapping[str, Ints], most: int = 9) -> Property:
    """A property whose values are names, from counts (S,) by value: the `most` frequent in the pool, and the others."""
    order = sorted(counts, key=lambda value: (-int(counts[value][0]), value))
    shown, rest = order[:most], order[most:]
    columns = [counts[value] for value in shown]
    labels = list(shown)
    if rest:
        columns.append(np.sum([counts[value] for value in rest], axis=0))
        labels.append("others")
    columns.append(np.zeros(len(names), dtype=np.int64))  # a language is always guessed
    return Property(
        key=key, title=title, labels=tuple(labels), edges=None, counts=_by_name(names, np.stack(columns, 1))
    )


def _by_name(names: Sequence[str], counts: Ints) -> dict[str, tuple[int, ...]]:
    return {name: tuple(row.tolist()) for name, row in zip(names, counts, strict=True)}


def numbers(values: Sequence[float]) -> tuple[str, ...]:
    """Borders of bins for people, with as many decimals, from two on, as tell them apart."""
    labels: tuple[str, ...] = ()
    for decimals in range(2, 10):
        labels = tuple(_number(value, decimals) for value in values)
        if len(set(labels)) == len(values):
            break
    return labels


def _number(value: float, decimals: int) -> str:
    if abs(value) >= _LARGE:
        return f"{value:.{decimals}e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value == int(value) or abs(value) >= _WHOLE else f"{value:.{decimals}f}"


def repeats(keys: npt.NDArray[np.uint64]) -> int:
    """How many of `keys` (N,) stand for a thing that an earlier one stands for."""
    return len(keys) - len(np.unique(keys))


def spearman(a: Array, b: Array) -> float | None:
    """Spearman's rank correlation of two samples (N,); None where one does not vary."""
    from scipy.stats import rankdata

    if len(a) < 3 or len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
