"""Two realised pools side by side: what both hold, and what a common universe would be."""

import dataclasses

import numpy as np

from harness import uid
from harness.pool.sealed import SealedPool
from harness.uid import Uids


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolDiff:
    """The uids of pools A and B."""

    a: int
    """Samples in A."""
    b: int
    """Samples in B."""
    common: Uids
    """(N,) sorted: the uids in both."""
    reasons: dict[str, int]
    """Of the uids that only one pool has, how many the other one holds but left out, by reason."""

    @property
    def digest(self) -> str:
        """sha256 of the common uids: the identity of the universe both parties could choose from."""
        return uid.digest(self.common)

    def lines(self) -> list[str]:
        """The comparison for a person."""
        n = len(self.common)
        lines = [
            f"A         {self.a:>15,}",
            f"B         {self.b:>15,}",
            f"both      {n:>15,}   {n / self.a:.2%} of A, {n / self.b:.2%} of B",
            f"only in A {self.a - n:>15,}",
            f"only in B {self.b - n:>15,}",
        ]
        lines += [
            f"          {count:>15,}   of these left out by the other: {reason}"
            for reason, count in self.reasons.items()
        ]
        return [*lines, f"a common universe would hold {n:,} samples, uids digest {self.digest}"]


def diff(a: SealedPool, b: SealedPool) -> PoolDiff:
    """Compare two sealed pools by their uids."""
    first, second = a.sorted_uids(), b.sorted_uids()
    in_both = uid.find(second, first) >= 0
    only_a, only_b = first[~in_both], second[uid.find(first, second) < 0]
    reasons: dict[str, int] = {}
    for only, other in ((only_a, b), (only_b, a)):
        names = set(uid.to_hex(only)) if len(only) else set()
        for row in other.left_out() if names else []:
            if row["uid"] in names:
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return PoolDiff(a=len(first), b=len(second), common=np.ascontiguousarray(first[in_both]), reasons=reasons)
