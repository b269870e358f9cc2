"""Evaluation pictures in a pool, by hash and by embeddings."""

import itertools
import shutil
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pool_folders import ONE, drawing, encoded, sample, uid_of, write_tar

from harness import decontaminate, duplicates, evalpictures, lookalikes, nearest, score, uid
from harness import model as models
from harness.decontaminate import search
from harness.errors import ArtifactError, ConfigError, StageError
from harness.evalpictures import disguised, eval_tars, task_of
from harness.pool import view
from harness.pool.seal import seal
from harness.records import read_record
from harness.subset import Subset


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
    found = search(sealed, eval_tars(str(tmp_path / "eval")), ONE, scratch=tmp_path)
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
        decontaminate.hash_eval_tar(tmp_path, (0, str(path)))


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
    assert {path.parents[2] for path in seen} == {tmp_path}  # where other machines can open it, not in /tmp
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


def test_a_search_that_is_stopped_goes_on(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed, embedded and compared is not done again, and the result is that of a search left in peace."""
    pool, tars = tmp_path / "pool", tmp_path / "eval"
    shutil.copytree(scored / "eval", tars)
    write_task(tars, "two", [drawing(seed) for seed in range(40, 50)])
    shutil.copytree(scored / "pool" / "shards", pool / "shards")
    write_tar(pool / "shards" / "1.tar", [sample(0, shard=1, image=encoded(drawing(500)))])
    (pool / "metadata").mkdir()
    for name in "ab":
        for suffix in ("parquet", "npz"):
            shutil.copy(scored / "pool" / "metadata" / f"a.{suffix}", pool / "metadata" / f"{name}.{suffix}")
    monkeypatch.setattr(decontaminate, "get", lambda _: ONE)
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    settings = {"pool.path": pool, "eval.data_dir": tars, "similarity": 0.999}
    by_embeddings(scored, tmp_path / "whole", **settings)
    shutil.rmtree(next(pool.glob("hashes-*")))

    done = Counter[str]()

    def stop_at_second(module: types.ModuleType, name: str) -> None:
        real = getattr(module, name)

        def counted(*arguments: object) -> object:
            done[name] += 1
            if done[name] == 2:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(module, name, counted)

    for module, name in ((duplicates, "_hashes"), (lookalikes, "_embed_tar"), (nearest, "load")):
        stop_at_second(module, name)
        with pytest.raises(KeyboardInterrupt):
            by_embeddings(scored, tmp_path / "out", **settings)
    by_embeddings(scored, tmp_path / "out", **settings)
    # There are two shards, tars and metadata files; the second of each was begun twice.
    assert done == {"_hashes": 3, "_embed_tar": 3, "load": 3}
    for name in ("contaminated.npy", "matches.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / ".scratch").exists()
