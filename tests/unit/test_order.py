"""The order of samples: pure, exactly counted, bounded, and mixed."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import order as order_module
from harness import uid
from harness.errors import ArtifactError, ConfigError
from harness.order import Order, batch_digest, chain, count, packed, permutation, raw, unpacked
from harness.uid import Uids


def random_uids(n: int, seed: int = 0) -> Uids:
    words = np.random.default_rng(seed).integers(0, 2**63, (n, 2), dtype=np.uint64)
    uids = np.empty(n, dtype=uid.UID_DTYPE)
    uids["f0"], uids["f1"] = words.T
    return uids


def make(
    sizes: list[int], counts: list[int] | None = None, *, batch: int = 7, seen: int = 100, seed: int = 0,
    order: str = "block_shuffle", exclude: list[int] | None = None,
) -> Order:  # fmt: skip
    pool = random_uids(sum(sizes))
    subset = uid.sort(np.repeat(pool, counts if counts is not None else [1] * len(pool)))
    return Order(
        pool, np.cumsum([0, *sizes]), subset, seed=seed, batch_size=batch, samples_seen=seen, order=order,  # type: ignore[arg-type]
        exclude=None if exclude is None else np.array(exclude),
    )  # fmt: skip


def whole(order: Order) -> np.ndarray:
    return np.concatenate([order.batch(k) for k in range(order.batches)])


sizes_and_counts = st.lists(st.integers(0, 12), min_size=1, max_size=6).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.lists(st.integers(0, 3), min_size=sum(sizes), max_size=sum(sizes)))
)


@settings(max_examples=60)
@given(sizes_and_counts, st.integers(2, 9), st.integers(1, 150), st.integers(0, 3))
def test_every_epoch_visits_each_sample_as_often_as_its_count(
    drawn: tuple[list[int], list[int]], batch: int, seen: int, seed: int
) -> None:
    sizes, counts = drawn
    if not sum(counts):
        with pytest.raises(ArtifactError, match="nothing to train on"):
            make(sizes, counts)
        return
    order = make(sizes, counts, batch=batch, seen=seen, seed=seed)
    rows = whole(order)
    assert len(rows) == seen
    assert [len(order.batch(k)) for k in range(order.batches - 1)] == [batch] * (order.batches - 1)
    n = sum(counts)
    for epoch in range(seen // n):
        np.testing.assert_array_equal(np.bincount(rows[epoch * n : (epoch + 1) * n], minlength=sum(sizes)), counts)


def test_batches_may_be_asked_for_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "BLOCK_SAMPLES", 20)
    monkeypatch.setattr(order_module, "BLOCK_BATCHES", 2)
    expected = [make([10] * 9).batch(k) for k in range(15)]
    order = make([10] * 9)
    for k in np.random.default_rng(0).permutation(15).tolist():
        np.testing.assert_array_equal(order.batch(k), expected[k])


def test_a_ready_order_is_what_it_was() -> None:
    # Frozen: a change here changes every result, so it needs a new protocol version.
    order = make([5, 0, 9, 6], [1, 2, 0, 1, 1] + [1] * 15, batch=6, seen=25, seed=3)
    assert chain(order.ledger()) == "ae6bbcb8d993b9e6c92be4cdbbbb6c9021c04e8a27357c5ab24acd2a4852cb4b"
    replaced = make([5, 0, 9, 6], [1, 2, 0, 1, 1] + [1] * 15, batch=6, seen=25, seed=3, order="with_replacement")
    assert chain(replaced.ledger()) == "221c970cb20287bdf397e1d823f1e20b174b5ce06affd671d5896de054aef33c"
    assert raw(2, what="order/shards/0", seed=0).tolist() == [10337988477743102237, 16451859194585647347]


def test_seed_epoch_and_subset_change_the_order() -> None:
    first = whole(make([50], seen=50))
    assert not np.array_equal(first, whole(make([50], seen=50, seed=1)))
    twice = whole(make([50], seen=100))
    np.testing.assert_array_equal(twice[:50], first)
    assert not np.array_equal(twice[50:], first)


def test_held_out_rows_are_never_fed() -> None:
    order = make([10, 10], exclude=[3, 15], seen=90)
    assert order.size == 18
    assert not set(whole(order).tolist()) & {3, 15}


def test_strangers_are_counted() -> None:
    pool = random_uids(10)
    subset = uid.sort(np.concatenate([pool[:4], random_uids(3, seed=9)]))
    with pytest.raises(ArtifactError, match="3 of the 7 uids"):
        Order(pool, np.array([0, 10]), subset, seed=0, batch_size=2, samples_seen=4)
    with pytest.raises(ConfigError, match="sorted"):
        make([4], order="sorted")


@given(st.lists(st.integers(0, 20), max_size=60), st.lists(st.integers(0, 25), max_size=30))
def test_count_agrees_with_counting(held: list[int], asked: list[int]) -> None:
    table = uid.sort(random_uids(26, seed=4))
    multiset = table[np.sort(np.array(held, dtype=np.int64))]
    assert count(multiset, table[np.array(asked, dtype=np.int64)]).tolist() == [held.count(a) for a in asked]


@pytest.mark.timeout(60)  # one step a repeat would take minutes
def test_a_uid_that_stands_a_million_times_is_counted() -> None:
    table = uid.sort(random_uids(3))
    assert count(np.repeat(table, [5, 1_000_000, 1]), table).tolist() == [5, 1_000_000, 1]


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, 255, 256]), max_size=70))
def test_packed_counts_give_their_rows_back(counts: list[int]) -> None:
    held = packed(np.array(counts, dtype=np.int64))
    assert unpacked(held, len(counts)).tolist() == [row for row, n in enumerate(counts) for _ in range(n)]
    assert held.nbytes <= -(-len(counts) // 8) * max(counts, default=0).bit_length()


def test_the_subset_is_looked_up_once_for_many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    find = uid.find
    monkeypatch.setattr(uid, "find", lambda table, queries: (looked.append(len(queries)), find(table, queries))[1])
    monkeypatch.setattr(order_module, "LOOKED_UP", 100)
    sizes = [30] * 10 + [0, 250, 20]
    order = make(sizes, seen=2 * sum(sizes))
    assert looked == [90, 90, 90, 30, 250, 20, 0]  # whole shards, and last what is held out
    np.testing.assert_array_equal(np.bincount(whole(order)), [2] * sum(sizes))
    assert len(looked) == 7


def test_shards_without_a_sample_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    order = make([50] * 40, [1] * 3 + [0] * 1900 + [1] * 97, seen=1000)
    opened: set[int] = set()
    rows = Order.shard_rows
    monkeypatch.setattr(Order, "shard_rows", lambda self, shard: (opened.add(shard), rows(self, shard))[1])
    whole(order)
    assert opened == {0, 38, 39}


@pytest.mark.parametrize("name", ["block_shuffle", "with_replacement"])
def test_a_block_tells_the_shards_of_its_positions(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(order_module, "BLOCK_SAMPLES", 20)
    monkeypatch.setattr(order_module, "BLOCK_BATCHES", 1)
    sizes = [10, 0, 12, 8, 9, 11, 10]
    order = make(sizes, seen=2 * sum(sizes) + 7, order=name)
    rows, position, blocks = whole(order), 0, 0
    while position < order.samples_seen:
        shards, end = order.block(position)
        assert order.block(min(end, order.samples_seen) - 1)[1] == end
        if name == "block_shuffle":
            of_rows = np.searchsorted(order._borders, rows[position:end], side="right") - 1
            assert set(of_rows.tolist()) <= set(shards.tolist())
            assert end > order.samples_seen or len(np.unique(of_rows)) == len(shards)
        else:
            assert not len(shards)
        position, blocks = end, blocks + 1
    assert blocks == (7 if name == "block_shuffle" else 1)


def test_blocks_hold_whole_shards_and_bound_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "BLOCK_SAMPLES", 100)
    monkeypatch.setattr(order_module, "BLOCK_BATCHES", 1)
    sizes = np.random.default_rng(0).integers(5, 40, 60).tolist()
    order = make(sizes, batch=10, seen=sum(sizes))
    rows = whole(order)
    shard_of = np.repeat(np.arange(60), sizes)[rows]
    first = [int(np.flatnonzero(shard_of == s)[0]) for s in range(60)]
    last = [int(np.flatnonzero(shard_of == s)[-1]) for s in range(60)]
    assert max(b - a for a, b in zip(first, last, strict=True)) < 100 + 2 * 40
    # At any position only the shards of one block are open.
    assert max(sum(a <= p <= b for a, b in zip(first, last, strict=True)) for p in range(len(rows))) <= 20


def test_block_shuffle_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composition of batches, for a pool whose shards are moderately different from each other.

    Share of "red" samples: shard means vary with deviation 0.05 around 0.3. docs/order.md: the variance of a batch's
    share is p(1-p)/B + s^2/m for blocks of m shards, against p(1-p)/B for a full shuffle.
    """
    monkeypatch.setattr(order_module, "BLOCK_SAMPLES", 16 * 500)
    rng = np.random.default_rng(1)
    shards, rows_each, batch = 160, 500, 250
    means = np.clip(rng.normal(0.3, 0.05, shards), 0, 1)
    red = rng.random((shards, rows_each)) < means[:, None]
    order = make([rows_each] * shards, batch=batch, seen=shards * rows_each)
    share = red.reshape(-1)[whole(order)].reshape(-1, batch).mean(axis=1)
    p = red.mean()
    full = p * (1 - p) / batch
    expected = full + means.var() / 16
    assert expected < 1.25 * full  # what the text claims of such a pool
    assert 0.75 * expected < share.var() < 1.25 * expected
    # Positions within a block are uniform: first and second half of blocks hold the same share.
    halves = red.reshape(-1)[whole(order)].reshape(-1, 2, 4000).mean(axis=(0, 2))
    assert abs(halves[0] - halves[1]) < 4 * np.sqrt(2 * p * (1 - p) / red.size)


def test_neighbours_in_the_pool_are_spread_over_the_epoch() -> None:
    # One block: a full shuffle. The distance of neighbours is that of random pairs, n/3 on average.
    n = 20_000
    place = np.argsort(whole(make([1000] * 20, batch=100, seen=n)))
    distance = np.abs(np.diff(place)).mean()
    assert abs(distance - n / 3) < 4 * n / np.sqrt(18 * n)


def test_permutation_is_uniform() -> None:
    first = [int(permutation(4, what="t", seed=s)[0]) for s in range(4000)]
    counts = np.bincount(first, minlength=4)
    assert (np.abs(counts - 1000) < 4 * np.sqrt(1000 * 0.75)).all()


def test_words_may_be_drawn_from_the_middle_of_a_stream() -> None:
    np.testing.assert_array_equal(raw(8, what="x", seed=1, start=3), raw(20, what="x", seed=1)[12:])


def test_with_replacement_draws_as_the_reference_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RESHARD_SAMPLES", 50), ("BUFFER", 30), ("BUFFER_FIRST", 10)):
        monkeypatch.setattr(order_module, name, value)
    order = make([100] * 20, batch=20, seen=2000, order="with_replacement")
    rows = whole(order)
    assert len(rows) == 2000
    never = 1 - len(np.unique(rows)) / 2000
    assert 0.25 < never < 0.55  # about 1/e of the shards are never drawn
    again = make([100] * 20, batch=20, seen=2000, order="with_replacement")
    np.testing.assert_array_equal(again.batch(77), order.batch(77))
    np.testing.assert_array_equal(again.batch(2), order.batch(2))


def test_ledger_is_sha256_of_the_uids() -> None:
    order = make([20], batch=8, seen=20)
    digests = list(order.ledger())
    assert len(digests) == 3
    text = b"".join(int(h).to_bytes(8, "little") + int(low).to_bytes(8, "little") for h, low in order.uids(1).tolist())
    assert digests[1] == hashlib.sha256(text).hexdigest() == batch_digest(order.uids(1))
    assert chain(digests) == hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
