"""A subset: the sorted multiset of uids that training reads.

    python -m harness.subset info subset=uids.npy
    python -m harness.subset check subset=uids.npy pool.path=DIR

A uid that stands k times is seen k times as often. The file is npy of dtype "u8,u8", sorted.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.errors import ArtifactError, MethodError
from harness.uid import Uids


class Subset:
    """A sorted multiset of uids; the array may be a memory-mapped file larger than memory."""

    def __init__(self, uids: Uids, *, name: str = "subset") -> None:
        """`uids`: (N,) sorted, dtype "u8,u8", repeats allowed. Raises ArtifactError naming the first out of order."""
        if uids.dtype != uid.UID_DTYPE or uids.ndim != 1:
            raise ArtifactError(f"{name}: dtype {uids.dtype}, shape {uids.shape}, expected one-dimensional u8,u8")
        if not len(uids):
            raise ArtifactError(f"{name}: holds no uid; a subset needs at least one")
        wrong = uid.first_unsorted(uids)
        if wrong >= 0:
            raise ArtifactError(
                f"{name}: not sorted: uid {uid.to_hex(uids[wrong : wrong + 1])[0]} in row {wrong} is smaller than the "
                "one before it; sort it with `python -m harness.subset convert`"
            )
        self.uids = uids
        self.name = name

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Subset":
        """The subset in the npy file `path`, memory-mapped. Raises ArtifactError if it is not one."""
        return cls(uid.load(path), name=str(path))

    @classmethod
    def of(cls, uids: Uids, counts: npt.NDArray[np.int64] | None = None) -> "Subset":
        """The subset of `uids` (N,) in any order, each repeated counts[i] >= 0 times (default once)."""
        order = uid.argsort(uids)
        ordered = uids[order]
        return cls(ordered if counts is None else np.repeat(ordered, counts[order]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the uids to `path` as npy, atomically."""
        uid.save(path, self.uids)

    def __len__(self) -> int:
        return len(self.uids)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the sorted uids."""
        return uid.digest(self.uids)

    def groups(self) -> Iterator[tuple[Uids, npt.NDArray[np.int64]]]:
        """The distinct uids (n,) and how often each stands (n,), in order, in bounded pieces."""
        for (part,) in _aligned([self.uids]):
            yield _grouped(part)

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Number of different uids, and the largest count."""
        distinct, largest = 0, 0
        for _, counts in self.groups():
            distinct, largest = distinct + len(counts), max(largest, int(counts.max()))
        return distinct, largest

    @property
    def distinct(self) -> int:
        """Number of different uids."""
        return self._sizes[0]

    @property
    def max_count(self) -> int:
        """How often the most frequent uid stands."""
        return self._sizes[1]

    @cached_property
    def unique(self) -> Uids:
        """The different uids (distinct,), sorted."""
        return np.concatenate([uids for uids, _ in self.groups()])

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each of `unique` stands, (distinct,)."""
        return np.concatenate([counts for _, counts in self.groups()])

    def union(self, other: "Subset") -> "Subset":
        """Every uid of either, as often as where it stands more often."""
        return self._combined(other, "union")

    def intersection(self, other: "Subset") -> "Subset":
        """The uids of both, as often as where they stand less often. ArtifactError if there is none."""
        return self._combined(other, "intersection")

    def within(self, other: "Subset") -> "Subset":
        """The uids of both, as often as they stand here. ArtifactError if there is none."""
        return self._combined(other, "within")

    def difference(self, other: "Subset") -> "Subset":
        """The uids of this one, as many times more as they stand here than there. ArtifactError if none is left."""
        return self._combined(other, "difference")

    def _combined(self, other: "Subset", rule: str) -> "Subset":
        name = f"{rule} of {self.name} and {other.name}"
        return Subset(np.concatenate([np.empty(0, uid.UID_DTYPE), *combined(self, other, rule)]), name=name)

    def upweight(self, counts: int | npt.NDArray[np.int64]) -> "Subset":
        """Every uid `counts` times as often: one number for all, or one for each of `unique` (distinct,).

        Raises MethodError if `counts` are not that: whole, none of them negative.
        """
        times = np.asarray(counts)
        if times.dtype.kind not in "iu" or times.shape not in ((), (self.distinct,)) or (times < 0).any():
            raise MethodError(
                f"Subset.upweight: counts {str(counts)[:60]} of dtype {times.dtype} and shape {times.shape}; it takes "
                f"one whole number >= 0, or one for each of the {self.distinct} different uids"
            )
        return Subset.of(self.unique, self.counts * times.astype(np.int64))

    def describe(self) -> dict[str, Any]:
        """Size, distinct uids, the largest count, how many uids stand how often, and the digest."""
        repeats: Counter[int] = Counter()
        for _, counts in self.groups():
            times, number = np.unique(counts, return_counts=True)
            repeats.update(dict(zip(times.tolist(), number.tolist(), strict=True)))
        return {
            "size": len(self),
            "distinct": sum(repeats.values()),
            "max_count": max(repeats),
            "repeats": {str(times): repeats[times] for times in sorted(repeats)},
            "digest": self.digest,
        }


_RULES: dict[str, Callable[[Any, Any], Any]] = {
    "union": np.maximum,
    "intersection": np.minimum,
    "within": lambda here, there: np.where(there > 0, here, 0),
    "difference": lambda here, there: np.maximum(here - there, 0),
}


def kept_of(given: Subset, kept: Subset) -> str:
    """What is left of a subset, for a person: samples with their repeats, and different uids."""
    return (
        f"requested {len(given):,} uids ({given.distinct:,} distinct), kept {len(kept):,} ({kept.distinct:,}), "
        f"lost {len(given) - len(kept):,} ({given.distinct - kept.distinct:,})"
    )


def combined(first: Subset, second: Subset, rule: str) -> Iterator[Uids]:
    """What a method of Subset gives that `rule` names, as sorted pieces; neither subset is held in memory whole."""
    for here, there in _aligned([first.uids, second.uids]):
        (uids_here, counts_here), (uids_there, counts_there) = _grouped(here), _grouped(there)
        every = uid.sort(np.concatenate([uids_here, uids_there]))
        every = every[uid.starts(every)]
        counts = _RULES[rule](_counts(every, uids_here, counts_here), _counts(every, uids_there, counts_there))
        yield np.repeat(every, counts)


def _aligned(arrays: Sequence[Uids]) -> Iterator[list[Uids]]:
    """Pieces of sorted arrays: all rows of equal uids stand in the same piece, in memory one piece at a time."""
    rests = list(arrays)
    while any(len(rest) for rest in rests):
        ends = [rest[uid.SORT_BLOCK - 1].item() for rest in rests if len(rest) > uid.SORT_BLOCK]
        cuts = [uid.upto(rest, *min(ends)) if ends else len(rest) for rest in rests]
        yield [np.asarray(rest[:cut]) for rest, cut in zip(rests, cuts, strict=True)]
        rests = [rest[cut:] for rest, cut in zip(rests, cuts, strict=True)]


def _grouped(uids: Uids) -> tuple[Uids, npt.NDArray[np.int64]]:
    first = uid.starts(uids)
    return uids[first], np.diff(first, append=len(uids))


def _counts(every: Uids, uids: Uids, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if not len(uids):
        return np.zeros(len(every), dtype=np.int64)
    place = uid.find(uids, every)
    return np.where(place >= 0, counts[place], 0)
