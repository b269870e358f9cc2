import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pool_folders import sample, uid_of, write_tar

from harness import decontaminate, duplicates, evalpictures, executor, nearest, score, similar, uid
from harness import model as models
from harness.decontaminate import search
from harness.duplicates import Fingerprints
from harness.errors import ArtifactError, ConfigError, StageError
from harness.evalpictures import disguised, eval_tars, task_of
from harness.phash import components, connected, distance, near_pairs, phash
from harness.pool.seal import seal
from harness.pool.view import Pool
from harness.records import read_record
from harness.subset import Subset

ONE = executor.local(1)


def drawing(seed: int, size: int = 96) -> Image.Image:
    """A picture with shapes, as natural pictures have: most of it in low frequencies."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(x) for x in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y, w, h = (int(v) for v in rng.integers(-10, size, 4))
        draw.ellipse([x, y, x + abs(w) + 8, y + abs(h) + 8], fill=tuple(int(c) for c in rng.integers(0, 256, 3)))
    return image


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


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


def write_task(folder: Path, name: str, pictures: list[Image.Image]) -> None:
    members = [{f"s{i:07d}.png": encoded(picture, "PNG"), f"s{i:07d}.cls": b"0"} for i, picture in enumerate(pictures)]
    place = folder / f"wds_{name}_test" / "test"
    write_tar(place / "0.tar", members)
    (place / "nshards.txt").write_text("1\n")


def test_evaluation_pictures_in_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "eval", "one", [drawing(seed) for seed in range(10, 20)])
    write_task(tmp_path / "eval", "two", [drawing(seed) for seed in range(20, 30)] + [Image.new("RGB", (40, 40))])
    leaked = [encoded(disguised(drawing(seed))) for seed in (13, 24)]
    images = [*(encoded(drawing(seed)) for seed in range(100, 110)), *leaked]
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(n, image=image) for n, image in enumerate(images)])
    sealed = seal(str(tmp_path / "pool"), executor=ONE)
    found = search(sealed, eval_tars(str(tmp_path / "eval")), ONE)
    assert found.control_recall == {"hash": 1.0}
    assert found.pictures == 20
    assert set(uid.to_hex(found.uids)) == {uid_of((0, 10)), uid_of((0, 11))}
    assert {(row["task"], row["key"]) for row in found.matches.to_pylist()} == {
        ("wds_one_test", "s0000003"), ("wds_two_test", "s0000004"),
    }  # fmt: skip

    Subset.of(uid.from_hex([uid_of((0, 10)), uid_of((0, 1))])).save(tmp_path / "uids.npy")
    arguments = [f"pool.path={tmp_path}/pool", f"eval.data_dir={tmp_path}/eval", f"out={tmp_path}/out"]
    decontaminate.command([*arguments, f"subset={tmp_path}/uids.npy"])
    assert uid.to_hex(uid.load(tmp_path / "out" / "contaminated.npy")) == [uid_of((0, 10))]
    payload = read_record(tmp_path / "out" / "decontamination.json", "decontamination").payload
    assert (payload["contaminated"], payload["control_recall"]) == (1, {"hash": 1.0})
    assert payload["task_recall"] == {"wds_one_test": {"hash": 1.0}, "wds_two_test": {"hash": 1.0}}
    (match,) = pq.read_table(tmp_path / "out" / "matches.parquet").to_pylist()  # of the subset, as the uids are
    assert (match["uid"], match["key"]) == (uid_of((0, 10)), "s0000003")
    assert "1 samples show one of 20 evaluation pictures" in capsys.readouterr().out


def test_a_task_whose_controls_are_missed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first in (("easy", 10), ("hard", 40)):
        write_task(tmp_path / "eval", name, [drawing(first + n) for n in range(20)])
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(0)])
    monkeypatch.setattr(evalpictures, "CONTROLS_EVERY", 1)
    monkeypatch.setattr(decontaminate, "get", lambda _: ONE)
    real, number = evalpictures.disguised, itertools.count()
    turned = range(37, 40)  # three of the second task's twenty: in all, more than nine in ten are found
    monkeypatch.setattr(
        evalpictures, "disguised", lambda picture: picture.rotate(90) if next(number) in turned else real(picture)
    )
    decontaminate.command([f"pool.path={tmp_path}/pool", f"eval.data_dir={tmp_path}/eval", f"out={tmp_path}/out"])
    payload = read_record(tmp_path / "out" / "decontamination.json", "decontamination").payload
    assert payload["control_recall"] == {"hash": 0.925}
    assert payload["task_recall"] == {"wds_easy_test": {"hash": 1.0}, "wds_hard_test": {"hash": 0.85}}
    said = capsys.readouterr().err
    assert "warning: wds_hard_test: 85.0% of its planted controls were found by hash" in said
    assert "wds_easy_test" not in said


def test_a_search_that_misses_its_controls_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "eval", "one", [drawing(seed) for seed in range(3)])
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(0)])
    monkeypatch.setattr(evalpictures, "disguised", lambda picture: picture.rotate(90))
    with pytest.raises(StageError, match=r"0\.0% of the planted controls"):
        decontaminate.command([f"pool.path={tmp_path}/pool", f"eval.data_dir={tmp_path}/eval", f"out={tmp_path}/out"])
    with pytest.raises(ArtifactError, match=r"holds no wds_\*/test/\*\.tar"):
        eval_tars(str(tmp_path))


@pytest.mark.parametrize("content", [b"no picture", encoded(Image.new("1", (20_000, 20_000)), "PNG")])
def test_broken_evaluation_tar(tmp_path: Path, content: bytes) -> None:
    path = write_tar(tmp_path / "wds_x_test" / "test" / "0.tar", [{"a.png": content}])
    with pytest.raises(ArtifactError, match=r"0\.tar: not a readable tar of pictures"):
        decontaminate.hash_eval_tar(str(path))


def test_the_tars_of_pictures_are_those_that_the_evaluation_reads(tmp_path: Path) -> None:
    for part in ("test", "images"):
        for name in ("0.tar", "1.tar", "._0.tar"):
            write_tar(tmp_path / "wds_x_test" / part / name, [])
        (tmp_path / "wds_x_test" / part / "nshards.txt").write_text("2")
    wanted = [str(tmp_path / "wds_x_test" / part / name) for part in ("images", "test") for name in ("0.tar", "1.tar")]
    assert eval_tars(str(tmp_path)) == wanted
    assert {task_of(tar) for tar in wanted} == {"wds_x_test"}
    Path(wanted[3]).unlink()
    with pytest.raises(ArtifactError, match=r"1\.tar: no such tar"):
        eval_tars(str(tmp_path))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool whose embeddings `mine_img` are a small model's, with an evaluation picture in it, and a task."""
    folder = tmp_path_factory.mktemp("scored")
    write_task(folder / "eval", "one", [drawing(seed) for seed in range(10, 20)] + [Image.new("RGB", (40, 40))])
    images = [*(encoded(drawing(seed)) for seed in range(100, 110)), encoded(disguised(drawing(13)))]
    write_tar(folder / "pool" / "shards" / "0.tar", [sample(n, image=image) for n, image in enumerate(images)])
    (folder / "pool" / "metadata").mkdir()
    uids = [uid_of("gone"), *(uid_of((0, n)) for n in range(11))]
    pq.write_table(pa.table({"uid": uids, "text": uids}), folder / "pool" / "metadata" / "a.parquet")
    seal(str(folder / "pool"), executor=ONE)
    for seed in (1, 2):
        weights = models.create("clip-tiny", seed=seed).state_dict()
        models.save_safetensors(folder / f"{seed}.safetensors", weights)
    score.command([f"pool.path={folder}/pool", f"checkpoint={folder}/1.safetensors", "model=clip-tiny", "name=mine",
                   "device=cpu"])  # fmt: skip
    return folder


def by_embeddings(folder: Path, out: Path, **more: object) -> None:
    values = {"pool.path": folder / "pool", "eval.data_dir": folder / "eval", "out": out, "features": "mine_img",
              "model": "clip-tiny", "checkpoint": folder / "1.safetensors", "device": "cpu", **more}  # fmt: skip
    decontaminate.command([f"{name}={value}" for name, value in values.items() if value is not None])


def test_evaluation_pictures_by_embeddings(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decontaminate, "near_pairs", lambda *_: np.empty((0, 2), np.int64))  # the hash finds nothing
        with pytest.raises(StageError, match=r"only 0\.0% of the planted controls were found by hash"):
            by_embeddings(scored, tmp_path, similarity=0.999)
    assert "0.0% by hash and 100.0% by embedding" in capsys.readouterr().out
    assert uid.to_hex(uid.load(tmp_path / "contaminated.npy")) == [uid_of((0, 10))]
    (match,) = pq.read_table(tmp_path / "matches.parquet").to_pylist()
    assert (match["uid"], match["task"], match["key"]) == (uid_of((0, 10)), "wds_one_test", "s0000003")
    assert match["bits"] is None and 0.999 <= match["similarity"] <= 1
    payload = read_record(tmp_path / "decontamination.json", "decontamination").payload
    assert payload["embedding"]["features"] == "mine_img"
    seen = []
    real = nearest.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "load", lambda path: seen.append(Path(path)) or real(path))
        by_embeddings(scored, tmp_path, similarity=0.999)
    assert {path.parent.parent for path in seen} == {tmp_path}  # where other machines can open it, not in /tmp
    rows = pq.read_table(tmp_path / "matches.parquet").to_pylist()
    assert [(row["key"], row["bits"] is None, row["similarity"] is None) for row in rows] == [
        ("s0000003", False, True), ("s0000003", True, False),
    ]  # fmt: skip


def test_embeddings_of_another_model(scored: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"mine_img is not what model clip-tiny gives: 0% of 11 pictures"):
        by_embeddings(scored, tmp_path, checkpoint=scored / "2.safetensors", similarity=0.999)
    with pytest.raises(ArtifactError, match="no array 'b32_img'"):
        by_embeddings(scored, tmp_path, features="b32_img")
    with pytest.raises(ConfigError, match="features, model and checkpoint go together, not features and model alone"):
        by_embeddings(scored, tmp_path, checkpoint=None)


def test_controls_that_the_embeddings_miss(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evalpictures, "disguised", lambda picture: picture.rotate(90))
    nothing = uid.from_hex([]), np.empty(0, int), np.empty(0), np.ones(1, bool)
    monkeypatch.setattr(decontaminate, "_by_hash", lambda *_: nothing)
    with pytest.raises(StageError, match=r"of the planted controls were found by embedding"):
        by_embeddings(scored, tmp_path, similarity=0.999)
