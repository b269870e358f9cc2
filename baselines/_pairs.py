"""Some pairs of a pool that a head learns from: drawn at random, or trusted to be right.

A pair whose stored embedding is zeros (harness.score writes them for pairs that are not there) or not finite is left
out: it must not spoil what a head learns.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baselines import _scores, clip_score
from baselines._scores import Floats
from harness import ArtifactError, Pool, SelectionContext, Subset, uid
from harness.files import is_remote
from harness.nearest import unit
from harness.pool.view import CHUNK
from harness.uid import Uids

BEST = 0.1
"""Fraction with the best CLIP scores that is trusted where nothing better is offered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Pairs of one pool."""

    pool: Pool
    uids: Uids
    """Sorted, all different."""
    beside: Pool | None = None
    """Another pool whose embeddings they are compared with."""

    def embeddings(self, arch: str) -> tuple[Floats, Floats]:
        """Of the pictures and of the captions, (n, width) each, of length 1, of those that `embedded` gives."""
        return self.embedded(arch)[1:]

    def embedded(self, arch: str) -> tuple[Uids, Floats, Floats]:
        """The uids (n,), sorted, of those whose picture and caption have an embedding, and both (n, width).

        ArtifactError if there is none.
        """
        places, rows = _rows_in_pool_order(self.pool, self.uids, arch)
        if self.beside is not None:
            _scores.require_width(self.beside, f"{arch}_img", rows.shape[2], of=self.pool.path)
        sides = np.empty((2, len(self.uids), rows.shape[2]), dtype=np.float32)
        sides[:, places] = rows
        there = sides.any(axis=2).all(axis=0)
        if not there.any():
            raise ArtifactError(f"{self.pool.path}: no pair to learn from has {arch} embeddings")
        return self.uids[there], sides[0, there], sides[1, there]

    def captions(self) -> list[str]:
        """Their captions, in the order of the uids."""
        texts = [""] * len(self.uids)
        parts = self.pool.map(partial(_captions, self.uids), columns=["uid", "text"], rows=CHUNK, name="captions")
        for places, found in parts:
            for place, text in zip(places, found, strict=True):
                texts[place] = text
        return texts


def embeddings_at(pool: Pool, rows: npt.NDArray[np.int64], arch: str) -> tuple[Floats, Floats]:
    """Of the pictures and of the captions, (n, width) each, of length 1, at the ascending places `rows` (n,)."""
    _, found = _rows_in_pool_order(pool, np.unique(pool.take(rows)), arch)
    if found.shape[1] != len(rows):
        raise ArtifactError(f"{pool.path}: some uids stand in several rows; pairs of one uid cannot be told apart")
    return found[0], found[1]


def _rows_in_pool_order(pool: Pool, uids: Uids, arch: str) -> tuple[npt.NDArray[np.int64], Floats]:
    """Places among the sorted `uids` of the rows that have one of them, and their embeddings (2, rows, width)."""
    names = [f"{arch}_img", f"{arch}_txt"]
    parts = pool.map(
        partial(_embedded, uids, names), columns=["uid"], features=names, rows=CHUNK, name="pairs to learn from"
    )
    return np.concatenate([place for place, _ in parts]), np.concatenate([found for _, found in parts], axis=1)


def drawn(pool: Pool, ctx: SelectionContext, size: int) -> Pairs:
    """`size` pairs at random, all of them where there are fewer."""
    return Pairs(pool=pool, uids=np.unique(pool.sample(size, rng=ctx.rng)))


def trusted(pool: Pool, ctx: SelectionContext, given: str | None, arch: str, size: int) -> Pairs:
    """At most `size` pairs that are taken to be right, drawn at random from all of them.

    `given` is a uid file of pairs of the pool, or the folder of a pool of right pairs. By default the pool's own
    trusted pairs, or if it offers none the tenth with the best CLIP scores.
    """
    source, uids = _trusted(pool, ctx, given, arch)
    if not len(uids):
        raise ArtifactError(
            f"{source.path}: holds no pair to trust (or none has an {arch} score); name some with method.trusted"
        )
    chosen = np.sort(ctx.rng.choice(len(uids), size, replace=False)) if len(uids) > size else slice(None)
    return Pairs(pool=source, uids=np.asarray(uids[chosen]), beside=pool)


def _trusted(pool: Pool, ctx: SelectionContext, given: str | None, arch: str) -> tuple[Pool, Uids]:
    if given is not None and not (is_remote(given) or os.path.isdir(given)):
        subset = Subset.load(given)
        uids = np.unique(subset.uids)
        inside = uids[pool.contains(uids)]
        if not len(inside):
            raise ArtifactError(f"{given}: none of its {len(uids)} uids is in the pool {pool.path}")
        ctx.remark(f"trusted: {len(inside)} pairs of the pool, by a uid file of digest {subset.digest[:16]}")
        return pool, inside
    offered = _offered(pool) if given is None else Pool.open(given, executor=pool.executor)
    if offered is not None:
        whose = "that the pool offers" if given is None else f"of another pool of digest {offered.digest[:16]}"
        ctx.remark(f"trusted: the right pairs {whose}")
        return offered, np.unique(offered.uids())
    ctx.remark(f"trusted: the {BEST:.0%} with the best {arch} scores, as the pool offers no pairs")
    return pool, np.unique(pool.filter(within=clip_score.border(pool, arch, BEST, None), name="trusted"))


def _offered(pool: Pool) -> Pool | None:
    try:
        return pool.trusted()
    except ArtifactError:
        return None


def _embedded(
    wanted: Uids, names: list[str], table: pa.Table, features: dict[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Places among `wanted` of the rows that are there, and their embeddings (2, rows, width)."""
    places = uid.find(wanted, uids_of(table))
    chosen = np.flatnonzero(places >= 0)
    return places[chosen], np.stack([np.nan_to_num(unit(features[name][chosen])) for name in names])


def _captions(wanted: Uids, table: pa.Table) -> tuple[list[int], list[str]]:
    places = uid.find(wanted, uids_of(table))
    chosen = np.flatnonzero(places >= 0)
    return places[chosen].tolist(), table["text"].take(chosen).to_pylist()


def uids_of(table: pa.Table) -> Uids:
    """The uids (n,) of a table's column `uid`."""
    return uid.from_hex(table["uid"].to_pylist())
