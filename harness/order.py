"""Which samples stand in batch k: a pure function of (subset, pool uids and shard borders, protocol, seed, k).

Nothing here knows of workers, ranks, restarts or files, so one order holds for all of them, and anyone can
recompute it from a uid file and the pool's uid list. docs/order.md states the rules and argues that they mix.

Position p counts samples from 0; batch k holds positions k*B to min((k+1)*B, samples_seen). A run passes over the
subset again and again: position p lies in epoch p // n, n being the size of the subset with its repeats.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from harness import uid
from harness.errors import ArtifactError, ConfigError
from harness.records import PROTOCOL
from harness.uid import UID_DTYPE, Uids

Rows = npt.NDArray[np.int64]
OrderName = Literal["block_shuffle", "with_replacement"]

BLOCK_SAMPLES = 131_072
BLOCK_BATCHES = 16
"""A block of shards holds about max(BLOCK_SAMPLES, BLOCK_BATCHES * batch size) samples: what is shuffled together."""

LOOKED_UP = 1 << 20
"""Rows of the pool that are looked up in the subset at a time, in whole shards."""

MOST_PASSES = 1000
"""Passes over a subset that an entry may make (RULES.md): each takes a look at the whole pool, however small it is."""

LOADERS = 8
RESHARD_SAMPLES = 10_000
BUFFER = 5_000
BUFFER_FIRST = 1_000
"""The reference's loader, for `with_replacement`: its workers, samples a shard, shuffle buffer and its first fill."""


def raw(words: int, *, what: str, seed: int, start: int = 0) -> npt.NDArray[np.uint64]:
    """`words` random 64-bit words: words 4*start to 4*start+words of the Philox stream named by `what` and `seed`.

    Only the bit generator is used, whose stream NumPy keeps for ever; the key is the first half of the sha256 of
    "protocol/what/seed".
    """
    key = hashlib.sha256(f"{PROTOCOL}/{what}/{seed}".encode()).digest()[:16]
    generator = np.random.Philox(key=int.from_bytes(key, "little"))
    if start:
        generator.advance(start)
    return generator.random_raw(words)


def permutation(n: int, *, what: str, seed: int) -> Rows:
    """A random order (n,) of 0…n-1: sorted by random words, equal words in their old order."""
    return np.argsort(raw(n, what=what, seed=seed), kind="stable").astype(np.int64, copy=False)


def protocol(order: OrderName) -> str:
    """The protocol that a run in this order belongs to; only the default order is ranked."""
    return PROTOCOL if order == "block_shuffle" else f"{PROTOCOL}-{order}"


class Sampler(Protocol):
    """A rule that says which sample stands at which position."""

    def take(self, start: int, stop: int) -> Rows:
        """Pool rows (stop - start,) of the samples at positions start…stop-1."""
        ...

    def block(self, position: int) -> tuple[Rows, int]:
        """See Order.block."""
        ...


class Order:
    """The samples of a whole training run.

    `pool_uids` (N,) in pool order, `borders` (S+1,) the first row of each shard and the end, `subset_uids` (n,) a
    sorted multiset, all of it in the pool; pool rows in `exclude` are left out. All three arrays may be
    memory-mapped: what is held is a bit for each row of the pool (more where a uid is repeated, less where hardly any
    is taken) and the rows of one block of shards.

    Raises ArtifactError if the subset names a uid that the pool has not, or if nothing is left to train on.
    """

    def __init__(
        self,
        pool_uids: Uids,
        borders: Rows,
        subset_uids: Uids,
        *,
        seed: int,
        batch_size: int,
        samples_seen: int,
        order: OrderName = "block_shuffle",
        exclude: Rows | None = None,
    ) -> None:
        self._pool, self._subset = pool_uids, subset_uids
        self._borders = np.asarray(borders, dtype=np.int64)
        self._exclude = np.sort(exclude) if exclude is not None else np.empty(0, dtype=np.int64)
        self.seed, self.batch_size, self.samples_seen, self.order = seed, batch_size, samples_seen, order
        self.totals = self._count_shards()
        """Samples of the subset (S,) in each shard, repeats counted."""
        self.size = int(self.totals.sum())
        """Samples of one epoch, repeats counted."""
        if not self.size:
            raise ArtifactError("the subset holds no sample of the pool; there is nothing to train on")
        samplers: dict[str, Callable[[Order], Sampler]] = {
            "block_shuffle": _BlockShuffle,
            "with_replacement": _WithReplacement,
        }
        if order not in samplers:
            raise ConfigError(f"train.order={order!r} is not one of {', '.join(samplers)}")
        self._sampler: Sampler = samplers[order](self)

    @property
    def batches(self) -> int:
        """Number of batches; the last holds the remainder."""
        return -(-self.samples_seen // self.batch_size)

    def span(self, k: int) -> tuple[int, int]:
        """First position of batch k and the position after its last."""
        if not 0 <= k < self.batches:
            raise IndexError(f"batch {k} of {self.batches}")
        return k * self.batch_size, min((k + 1) * self.batch_size, self.samples_seen)

    def batch(self, k: int) -> Rows:
        """Pool rows (B,) of batch k, in order."""
        return self._sampler.take(*self.span(k))

    def block(self, position: int) -> tuple[Rows, int]:
        """The shards whose samples stand together around `position`, and the first position behind them.

        No shards if they stand anywhere.
        """
        return self._sampler.block(position)

    def uids(self, k: int) -> Uids:
        """Uids (B,) of batch k, in order."""
        return np.asarray(self._pool[self.batch(k)])

    def ledger(self) -> Iterator[str]:
        """The digest of each batch, as the ledger of a run states it."""
        return (batch_digest(self.uids(k)) for k in range(self.batches))

    def shard_rows(self, shard: int) -> Rows:
        """Pool rows of the subset's samples in one shard, ascending, each as often as its count."""
        first, end = int(self._borders[shard]), int(self._borders[shard + 1])
        return unpacked(self._packed[shard], end - first) + first

    def _counts(self, first: int, end: int) -> Rows:
        counts = count(self._subset, np.asarray(self._pool[first:end]))
        left, right = np.searchsorted(self._exclude, [first, end])
        counts[self._exclude[left:right] - first] = 0
        return counts

    def _count_shards(self) -> Rows:
        borders, totals = self._borders, np.zeros(len(self._borders) - 1, dtype=np.int64)
        self._packed: list[npt.NDArray[np.generic]] = []
        while (shard := len(self._packed)) < len(totals):
            # One shard's uids are spread over the whole subset, so many shards share a walk through it.
            first = int(borders[shard])
            stop = max(int(np.searchsorted(borders, first + LOOKED_UP, side="right")) - 1, shard + 1)
            counts = self._counts(first, int(borders[stop]))
            for start, end in zip(borders[shard:stop].tolist(), borders[shard + 1 : stop + 1].tolist(), strict=True):
                own = counts[start - first : end - first]
                totals[len(self._packed)] = own.sum()
                self._packed.append(packed(own))
        held_out = int(count(self._subset, uid.sort(np.asarray(self._pool[self._exclude]))).sum())
        strangers = len(self._subset) - int(totals.sum()) - held_out
        if strangers:
            raise ArtifactError(
                f"{strangers:,} of the {len(self._subset):,} uids of the subset are not in the sealed pool; "
                "`python -m harness.select subset=FILE intersect=true out=KEPT.npy` leaves them out"
            )
        return totals


def packed(counts: Rows) -> npt.NDArray[np.generic]:
    """`counts` (N,) in few bytes: the rows, each as often as its count, or, where they are many, the counts' bits."""
    planes = int(counts.max(initial=0)).bit_length()
    if 4 * int(counts.sum()) <= planes * -(-len(counts) // 8):
        return np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    return np.packbits([counts >> plane & 1 for plane in range(planes)], axis=1)


def unpacked(held: npt.NDArray[np.generic], rows: int) -> Rows:
    """The rows 0…rows-1, ascending, each as often as the count that `packed` was given for it."""
    if held.ndim == 1:
        return held.astype(np.int64)
    counts = np.zeros(rows, dtype=np.int64)
    for plane, bits in enumerate(held):
        counts += np.unpackbits(bits, count=rows).astype(np.int64) << plane
    return np.repeat(np.arange(rows), counts)


def count(multiset: Uids, queries: Uids) -> Rows:
    """How often (M,) each of the queries (M,) stands in the sorted `multiset` (n,)."""
    by_uid = uid.argsort(queries)  # neighbouring queries touch neighbouring parts of a memory-mapped table
    queries = queries[by_uid]
    first = uid.find(multiset, queries)
    last = first.copy()

    def advanced(rows: Rows, step: int) -> Rows:
        """Those of the rows whose uid stands in the multiset `step` places on as well; their last place moves there."""
        rows = rows[last[rows] + step < len(multiset)]
        rows = rows[multiset[last[rows] + step] == queries[rows]]
        last[rows] += step
        return rows

    # Steps that double and then halve: a uid that stands a million times takes forty of them.
    found, step = np.flatnonzero(first >= 0), 1
    todo = repeated = advanced(found, step)
    while len(todo):
        step *= 2
        todo = advanced(todo, step)
    while step > 1:
        step //= 2
        advanced(repeated, step)
    counts = np.zeros(len(queries), dtype=np.int64)
    counts[by_uid[found]] = (last - first + 1)[found]
    return counts


class _BlockShuffle:
    """Every epoch: the shards in random order, cut into blocks of about equal size, each block shuffled whole."""

    def __init__(self, order: Order) -> None:
        self._order = order
        wanted = max(BLOCK_SAMPLES, BLOCK_BATCHES * order.batch_size)
        self._blocks = max(1, order.size // wanted)
        self._some = np.flatnonzero(order.totals)
        self._epoch = self._block = -1

    def take(self, start: int, stop: int) -> Rows:
        parts = []
        while start < stop:
            epoch, within = divmod(start, self._order.size)
            self._open_epoch(epoch)
            block = int(np.searchsorted(self._ends, within, side="right"))
            self._open_block(block)
            offset = within - (int(self._ends[block - 1]) if block else 0)
            part = self._rows[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def block(self, position: int) -> tuple[Rows, int]:
        epoch, within = divmod(position, self._order.size)
        self._open_epoch(epoch)
        block = int(np.searchsorted(self._ends, within, side="right"))
        end = epoch * self._order.size + int(self._ends[block])
        return self._shards[self._first[block] : self._first[block + 1]], end

    def _open_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        order = self._order
        # Shards without a sample take part in the draw and then give nothing, so they need not be put in their place.
        words = raw(len(order.totals), what=f"order/shards/{epoch}", seed=order.seed)[self._some]
        self._shards = self._some[np.argsort(words, kind="stable")]
        totals = order.totals[self._shards]
        ends = np.cumsum(totals)
        # A shard belongs to the block in which its middle lies, so blocks differ by at most one shard's samples.
        middle = 2 * ends - totals
        block_of = np.minimum(middle * self._blocks // (2 * order.size), self._blocks - 1)
        self._first = np.searchsorted(block_of, np.arange(self._blocks + 1))
        self._ends = np.concatenate([[0], ends])[self._first[1:]]
        self._epoch, self._block = epoch, -1

    def _open_block(self, block: int) -> None:
        if block == self._block:
            return
        order = self._order
        shards = self._shards[self._first[block] : self._first[block + 1]]
        rows = np.concatenate([order.shard_rows(int(s)) for s in shards])
        self._rows = rows[permutation(len(rows), what=f"order/block/{self._epoch}/{block}", seed=order.seed)]
        self._block = block


class _WithReplacement:
    """The reference's way with its randomness pinned down: for re-creating published numbers, never ranked.

    The subset is cut into shards of 10,000 in pool order. Each of LOADERS loaders draws shards with replacement, all
    equally likely, and passes their samples through a shuffle buffer; batch k comes whole from loader k % LOADERS.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._ends = np.cumsum(order.totals)
        self._streams = [_Loader(self, loader) for loader in range(LOADERS)]

    def take(self, start: int, stop: int) -> Rows:
        k = start // self._order.batch_size
        before = (k // LOADERS) * self._order.batch_size
        return self._streams[k % LOADERS].take(before, before + stop - start)

    def block(self, position: int) -> tuple[Rows, int]:
        return np.empty(0, dtype=np.int64), self._order.samples_seen

    @property
    def shards(self) -> int:
        return -(-self._order.size // RESHARD_SAMPLES)

    def shard(self, shard: int) -> Rows:
        """Pool rows of the samples with index shard*10,000 and on, of the whole subset in pool order."""
        start = shard * RESHARD_SAMPLES
        stop = min(start + RESHARD_SAMPLES, self._order.size)
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop, side="left"))
        rows = np.concatenate([self._order.shard_rows(s) for s in range(first, last + 1)])
        before = int(self._ends[first - 1]) if first else 0
        return rows[start - before : stop - before]


class _Loader:
    """One loader's endless stream; it is replayed from its start when an earlier position is asked for."""

    def __init__(self, source: _WithReplacement, loader: int) -> None:
        self._source, self._loader = source, loader
        self._seed = source._order.seed
        self._restart()

    def take(self, start: int, stop: int) -> Rows:
        if start < self._given:
            self._restart()
        while self._given < start:
            self._given += len(self._next(start - self._given))
        parts = []
        while self._given < stop:
            parts.append(self._next(stop - self._given))
            self._given += len(parts[-1])
        return np.concatenate(parts)

    def _restart(self) -> None:
        self._given, self._drawn = 0, 0
        self._buffer: list[int] = []
        self._ready = np.empty(0, dtype=np.int64)

    def _next(self, most: int) -> Rows:
        if not len(self._ready):
            self._ready = self._pass_shard()
        part, self._ready = self._ready[:most], self._ready[most:]
        return part

    def _pass_shard(self) -> Rows:
        """Draw a shard and push its samples through the buffer; the samples that come out."""
        source, name = self._source, f"{self._loader}/{self._drawn}"
        chosen = int(raw(1, what=f"replacement/shard/{name}", seed=self._seed)[0]) % source.shards
        rows = source.shard(chosen).tolist()
        draws = raw(len(rows), what=f"replacement/buffer/{name}", seed=self._seed).tolist()
        self._drawn += 1
        out, buffer = [], self._buffer
        for row, draw in zip(rows, draws, strict=True):
            buffer.append(row)
            if len(buffer) > (BUFFER if self._drawn > 1 else BUFFER_FIRST):
                at = draw % len(buffer)
                buffer[at], buffer[-1] = buffer[-1], buffer[at]
                out.append(buffer.pop())
        return np.array(out, dtype=np.int64)


def batch_digest(uids: Uids) -> str:
    """sha256 (hex) over the 16 little-endian bytes of each uid of a batch, in order."""
    return hashlib.sha256(np.ascontiguousarray(uids.astype(UID_DTYPE, copy=False)).tobytes()).hexdigest()


def chain(digests: Iterable[str]) -> str:
    """One digest (hex) for a run: sha256 over the digests of its batches, in order."""
    state = hashlib.sha256()
    for digest in digests:
        state.update(bytes.fromhex(digest))
    return state.hexdigest()
