"""Two realised pools side by side: what both hold, and what a common universe would be."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from harness import uid
from harness.pool import left_out
from harness.pool.sealed import SealedPool
from harness.uid import Uids


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolDiff:
    """How many uids pools A and B hold."""

    a: int
    """Samples in A."""
    b: int
    """Samples in B."""
    common: int
    """Samples in both."""
    digest: str
    """sha256 of the sorted common uids: the identity of the universe both parties could choose from."""
    reasons: dict[str, int]
    """Of the uids that only one pool has, how many the other one holds but left out, by reason."""

    def lines(self) -> list[str]:
        """The comparison for a person."""
        n = self.common
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


def diff(a: SealedPool, b: SealedPool, out: str | os.PathLike[str] | None = None) -> PoolDiff:
    """Compare two sealed pools by their uids; the common ones, sorted, are written to `out`.

    Memory does not grow with the pools, nor with what they left out.
    """
    first, second = a.sorted_uids(), b.sorted_uids()
    sizes: list[int] = []

    def common() -> Iterator[Uids]:
        for part in uid.blocks(first):
            both = part[uid.find(second, part) >= 0]
            sizes.append(len(both))
            yield both

    if out is None:
        digest = uid.digest_pieces(common())
    else:
        uid.save_pieces(out, common())
        digest = uid.digest(uid.load(out))
    reasons = _left_out(b, only=first, but=second) + _left_out(a, only=second, but=first)
    return PoolDiff(a=len(first), b=len(second), common=sum(sizes), digest=digest, reasons=dict(reasons))


def _left_out(pool: SealedPool, *, only: Uids, but: Uids) -> Counter[str]:
    """By reason, what `pool` left out of the uids in `only` that are not in `but`, its own."""
    counts: Counter[str] = Counter()
    for uids, reasons in left_out.uids_and_reasons(pool.seal_dir):
        missed = (uid.find(only, uids) >= 0) & (uid.find(but, uids) < 0)
        counts.update(reasons[place] for place in np.flatnonzero(missed))
    return counts
