import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_folders import ONE, drawing, encoded, sample, uid_of, write_tar

from harness import duplicates, nearest, similar, uid
from harness.duplicates import Fingerprints
from harness.errors import ArtifactError, ConfigError
from harness.evalpictures import disguised
from harness.phash import components, connected, distance, near_pairs, phash
from harness.pool.seal import seal
from harness.pool.view import Pool


@settings(max_examples=50)
@given(
    queries=st.lists(st.integers(0, 2**64 - 1), max_size=8),
    flips=st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, 63), max_size=5)), max_size=12),
)
def test_all_near_pairs_are_found(queries: list[int], flips: list[tuple[int, list[int]]]) -> None:
    table = [queries[i % len(queries)] ^ sum(1 << bit for bit in set(bits)) for i, bits in flips if queries]
    expected = [
        (a, b) for (a, x), (b, y) in itertools.product(enumerate(queries), enumerate(table)) if (x ^ y).bit_count() <= 4
    ]
    found = near_pairs(np.array(queries, np.uint64), np.array(table, np.uint64))
    assert [tuple(pair) for pair in found.tolist()] == expected


def test_all_pairs_within_four_bits_of_one_hash() -> None:
    """None is missed, whichever bands its bits fall into, and each comes once."""
    bits = [np.uint64(1 << bit) for bit in range(64)]
    around = [np.bitwise_or.reduce(some) for size in range(1, 5) for some in itertools.combinations(bits[::3], size)]
    table = np.array([0, *around], np.uint64)
    found = near_pairs(np.zeros(1, np.uint64), table)
    assert found[:, 1].tolist() == list(range(len(table)))
    assert len(near_pairs(table[:1], ~table)) == 0


def test_hash_survives_the_web_and_tells_pictures_apart() -> None:
    pictures = [drawing(seed) for seed in range(60)]
    hashes = np.array([phash(picture) for picture in pictures], np.uint64)
    again = np.array([phash(disguised(picture)) for picture in pictures], np.uint64)
    assert (distance(hashes, again) <= 4).mean() > 0.95
    assert len(near_pairs(hashes, hashes)) == 60


def test_components() -> None:
    pairs = np.array([[4, 2], [2, 1], [5, 6]])
    assert components(pairs, 8).tolist() == [0, 1, 1, 3, 1, 5, 5, 7]
    assert components(np.empty((0, 2), np.int64), 2).tolist() == [0, 1]


def test_duplicates_in_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, other = drawing(1), drawing(2)
    images = [encoded(original), encoded(other), encoded(original), encoded(disguised(original), quality=80)]
    write_tar(tmp_path / "shards" / "0.tar", [sample(n, image=image) for n, image in enumerate(images)])
    duplicates.command([f"pool.path={tmp_path}"])
    rows = pq.read_table(tmp_path / "duplicates.parquet").to_pylist()
    assert [row["uid"] for row in rows] == [uid_of((0, n)) for n in range(4)]
    assert [row["exact"] for row in rows] == [uid_of((0, n)) for n in (0, 1, 0, 3)]
    assert [row["near"] for row in rows] == [uid_of((0, n)) for n in (0, 1, 0, 0)]
    assert all(len(row["sha256"]) == 64 for row in rows)
    assert "4 samples: 1 repeat an earlier picture exactly, 2 nearly" in capsys.readouterr().out


def clouds(rng: np.random.Generator, centres: int, each: int, width: int = 16) -> np.ndarray:
    """`each` nearly equal directions around each of `centres` random ones."""
    middles = rng.normal(size=(centres, width))
    rows = np.repeat(middles, each, axis=0) + rng.normal(scale=0.01, size=(centres * each, width))
    return (rows * rng.uniform(0.5, 2, size=(len(rows), 1))).astype(np.float16)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), least=st.floats(0.3, 0.99))
def test_alike_is_every_pair_and_no_other(seed: int, least: float) -> None:
    rng = np.random.default_rng(seed)
    queries, table = rng.normal(size=(23, 5)), rng.normal(size=(31, 5))
    queries[3], table[4] = 0, np.nan
    with np.errstate(invalid="ignore"):
        cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
            table / np.linalg.norm(table, axis=1, keepdims=True)
        ).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_BLOCK", 7)
        patch.setattr(nearest, "_CENTROIDS", 9)
        found = {tuple(pair): value for pairs, values in nearest.alike(queries, table, least=least)
                 for pair, value in zip(pairs.tolist(), values.tolist(), strict=True)}  # fmt: skip
    sure = {tuple(pair) for pair in np.argwhere(cosines >= least + 1e-6).tolist()}
    maybe = {tuple(pair) for pair in np.argwhere(cosines >= least - 1e-6).tolist()}
    assert sure <= set(found) <= maybe
    assert all(abs(value - cosines[pair]) < 1e-5 for pair, value in found.items())


def steps(rows: np.ndarray, least: float) -> list[int]:
    return connected((pairs for pairs, _ in nearest.alike(rows, rows, least=least)), len(rows)).tolist()


def test_connected_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # A quarter turn in steps of 15 degrees, and one that points elsewhere.
    turns = np.radians([0, 75, 15, 60, 200, 30, 45])
    rows = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    assert steps(rows, np.cos(np.radians(16))) == [0, 0, 0, 0, 4, 0, 0]
    assert steps(rows, np.cos(np.radians(14))) == [0, 1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(nearest, "_BLOCK", 2)
    monkeypatch.setattr(nearest, "_CENTROIDS", 3)
    monkeypatch.setattr("harness.phash._PAIRS", 1)
    assert steps(rows, np.cos(np.radians(16))) == [0, 0, 0, 0, 4, 0, 0]


def write_metadata(folder: Path, uids: list[str], features: np.ndarray, *, files: int = 2) -> None:
    """Metadata files with embeddings l14_img, in small row groups."""
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(len(uids)), files)):
        table = pa.table({"uid": [uids[row] for row in rows], "text": [f"caption {row}" for row in rows]})
        pq.write_table(table, folder / "metadata" / f"{number}.parquet", row_group_size=3)
        np.savez(folder / "metadata" / f"{number}.npz", l14_img=features[rows])


def groups_of(links: tuple[uid.Uids, uid.Uids]) -> set[frozenset[str]]:
    """The sets of uids that are connected."""
    groups: dict[str, set[str]] = {}
    for a, b in zip(*map(uid.to_hex, links), strict=True):
        union = groups.get(a, {a}) | groups.get(b, {b})
        groups |= dict.fromkeys(union, union)
    return {frozenset(group) for group in groups.values()}


@pytest.mark.parametrize("exact_rows", [1 << 16, 10])
def test_similar_pairs_of_a_pool(tmp_path: Path, exact_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    order = rng.permutation(60 * 4)
    features = clouds(rng, 60, 4)[order]
    uids = [uid_of(n) for n in range(240)]
    write_metadata(tmp_path, uids, features)
    expected = {frozenset(uids[row] for row in np.flatnonzero(order // 4 == centre)) for centre in range(60)}
    monkeypatch.setattr(similar, "EXACT_ROWS", exact_rows)
    monkeypatch.setattr(similar, "CLUSTER_ROWS", 48)
    found = groups_of(similar.links(Pool.open(tmp_path, executor=ONE), "l14_img", least=0.97, scratch=tmp_path))
    if exact_rows > 240:
        assert found == expected
    else:  # borders between clusters may part a few, and join none
        assert all(any(group <= whole for whole in expected) for group in found)
        assert len(found & expected) > 50
    assert not list(tmp_path.glob(".similar-*"))


def test_columns_of_duplicates_are_columns_of_the_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = drawing(1)
    images = [encoded(original), encoded(drawing(2)), encoded(original), encoded(disguised(original), quality=80)]
    write_tar(tmp_path / "shards" / "0.tar", [sample(n, image=image) for n, image in enumerate(images)])
    # The metadata has another order, and pairs that were never downloaded.
    uids = [uid_of(x) for x in ("gone", (0, 2), (0, 0), "lost", "away", (0, 3), (0, 1))]
    features = np.random.default_rng(0).normal(size=(7, 8)).astype(np.float16)
    features[6] = features[2]
    write_metadata(tmp_path, uids, features)
    sealed = seal(str(tmp_path), executor=ONE)

    def firsts(column: str) -> list[str]:
        pool = Pool.open(tmp_path, sealed=seal(str(tmp_path), executor=ONE), executor=ONE)
        return uid.to_hex(
            pool.filter(lambda table: np.array(table["uid"]) == np.array(table[column]), columns=[column])
        )

    with pytest.raises(ArtifactError, match=r"0\.parquet: no column 'near' .*`python -m harness\.duplicates` makes it"):
        firsts("near")
    duplicates.command([f"pool.path={tmp_path}"])
    assert firsts("exact") == sorted(uid_of((0, n)) for n in (0, 1, 3))
    assert firsts("near") == sorted(uid_of((0, n)) for n in (0, 1))
    with pytest.raises(ArtifactError, match=r"no column 'similar' .*with features=l14_img makes it"):
        firsts("similar")
    duplicates.command([f"pool.path={tmp_path}", "features=l14_img", "similarity=0.99"])
    assert "2 nearly, 1 by l14_img" in capsys.readouterr().out
    assert firsts("similar") == sorted(uid_of((0, n)) for n in (0, 2, 3))
    pool = Pool.open(tmp_path, sealed=sealed, executor=ONE)
    assert pool.columns == ["uid", "text", "sha256", "phash", "exact", "near", "similar"]
    tables = pool.map(lambda table, features: (table.to_pydict(), features["l14_img"].tolist()),
                      columns=["near", "text", "uid"], features=["l14_img"])  # fmt: skip
    assert [table["near"] for table, _ in tables] == [[uid_of((0, 0))] * 2, [uid_of((0, 0)), uid_of((0, 1))]]
    assert [list(table) for table, _ in tables] == [["near", "text", "uid"]] * 2
    assert [rows for _, rows in tables] == [features[[1, 2]].tolist(), features[[5, 6]].tolist()]
    # Files that do not fit the metadata are refused, and another state of the pool has no columns yet.
    pq.write_table(
        pq.read_table(Path(sealed.duplicates_dir) / "0.parquet")[1:], Path(sealed.duplicates_dir, "0.parquet")
    )
    with pytest.raises(ArtifactError, match=r"0\.parquet: does not fit .*run `python -m harness\.duplicates`"):
        firsts("near")
    write_tar(tmp_path / "shards" / "1.tar", [sample(5, shard=1)])
    with pytest.raises(ArtifactError, match="no column 'near'"):
        firsts("near")


def test_features_that_are_not_there(tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "0.tar", [sample(0)])
    with pytest.raises(ArtifactError, match="no parquet file"):
        duplicates.command([f"pool.path={tmp_path}", "features=l14_img"])
    write_metadata(tmp_path, [uid_of((0, 0))], np.ones((1, 4), np.float16), files=1)
    with pytest.raises(ArtifactError, match=r"0\.npz: no array 'b32_img' \(there are: l14_img\)"):
        duplicates.command([f"pool.path={tmp_path}", "features=b32_img"])
    with pytest.raises(ConfigError, match="setting similarity"):
        duplicates.command([f"pool.path={tmp_path}", "similarity=1.5"])


def test_many_equal_pictures_cost_no_pairs() -> None:
    n = 200_000
    found = duplicates.find(Fingerprints(np.full(n, b"x", "S32"), np.zeros(n, np.uint64)))
    assert not found.first["exact"].any()
    assert not found.first["near"].any()


def test_the_first_of_near_pictures_is_the_first_in_the_pool() -> None:
    """Whatever their hashes are: here the one in the middle, which connects the first and the third, comes last."""
    codes = np.array([0xFF00, 0x1234 << 40, 0x0F0F, 0x1234 << 40, 0xF00F, 0x0F00], np.uint64)
    found = duplicates.find(Fingerprints(np.arange(6).astype("S32"), codes))
    assert found.first["near"].tolist() == [0, 1, 0, 1, 4, 0]
