"""The generated pool: CommonPool's layout, known faults, the same bytes again, whole or not there."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.errors import ArtifactError, ConfigError
from harness.files import sha256_file
from harness.tiny import cache, captions
from harness.tiny.folder import make_once
from harness.tiny.pool import make_pool, save_npz, specs
from harness.tiny.shards import FAULT_NAMES, FAULTS, Samples, Spec, imagine, uid_of

SAMPLES, SEED = 200, 5


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "pool"
    make_pool(folder, samples=SAMPLES, seed=SEED, faults=folder.parent / "faults.tsv")
    return folder


@pytest.fixture(scope="module")
def shard() -> Samples:
    return imagine(Spec("", 0, "pool", 0, 0, 4096))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "made.json"
    }


def test_layout_is_commonpools(pool: Path) -> None:
    (metadata,) = (pool / "metadata").glob("*.parquet")
    assert len(metadata.stem) == 32
    table = pq.read_table(metadata)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "uid": "string", "url": "string", "text": "string", "original_width": "int64", "original_height": "int64",
        "clip_b32_similarity_score": "float", "clip_l14_similarity_score": "float",
        "face_bboxes": "list<element: list<element: double>>", "sha256": "string",
    }  # fmt: skip
    assert table["uid"].to_pylist() == [uid_of(SEED, "pool", i) for i in range(SAMPLES)]
    with np.load(metadata.with_suffix(".npz"), allow_pickle=False) as features:
        assert set(features) == {"b32_img", "b32_txt", "l14_img", "l14_txt"}
        for name in ("b32", "l14"):
            image, text = (features[f"{name}_{side}"].astype(np.float32) for side in ("img", "txt"))
            assert features[f"{name}_img"].dtype == np.float16
            assert np.allclose(np.linalg.norm(image, axis=1), 1, atol=2e-3)
            scores = table[f"clip_{name}_similarity_score"].to_numpy()
            assert (scores == scores.astype(np.float16)).all()
            assert np.abs((image * text).sum(axis=1) - scores).max() < 2e-3


def test_tar_members_are_those_of_img2dataset(pool: Path) -> None:
    rows = pq.read_table(pool / "shards" / "00000000.parquet").to_pylist()
    with tarfile.open(pool / "shards" / "00000000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members] == [
            f"00000000{i:04d}.{x}" for i in range(SAMPLES) for x in ("jpg", "txt", "json")
        ]
        assert {(m.mtime, m.uid, m.uname) for m in members} == {(0, 0, "")}
        for i in (0, SAMPLES - 1):
            jpeg, text, facts = (tar.extractfile(m).read() for m in members[3 * i : 3 * i + 3])  # type: ignore[union-attr]
            described = json.loads(facts)
            assert described == rows[i]
            assert described["caption"] == text.decode()
            assert Image.open(io.BytesIO(jpeg)).size == (described["width"], described["height"])
    stats = json.loads((pool / "shards" / "00000000_stats.json").read_text())
    assert stats["successes"] == stats["count"] == SAMPLES


def test_same_seed_same_bytes_other_seed_others(pool: Path, tmp_path: Path) -> None:
    make_pool(tmp_path / "again", samples=SAMPLES, seed=SEED)
    assert digests(tmp_path / "again") == digests(pool)
    one, other = (imagine(Spec("", seed, "pool", 0, 0, SAMPLES)) for seed in (SEED, SEED + 1))
    assert np.mean([a == b for a, b in zip(one.captions, other.captions, strict=True)]) < 0.1


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (1, 2):
        make_pool(tmp_path / str(workers), samples=5000, workers=workers)
    one, two = digests(tmp_path / "1"), digests(tmp_path / "2")
    pictures = [name for name in one if "metadata" not in name and not name.endswith("npz")]
    assert len(pictures) > 8
    assert {name: one[name] for name in pictures} == {name: two[name] for name in pictures}


def test_targets_are_clean_and_complete(pool: Path) -> None:
    texts = (pool / "targets" / "texts.txt").read_text().splitlines()
    with np.load(pool / "targets" / "train.npz", allow_pickle=False) as train:
        assert len(texts) == len(train["label"]) == len(train["l14_img"]) == 120
        assert set(train["label"].tolist()) == set(range(120))
    trusted = pq.read_table(next((pool / "targets" / "trusted" / "metadata").glob("*.parquet")))
    assert trusted.num_rows == 256
    assert not set(trusted["uid"].to_pylist()) & {uid_of(SEED, "pool", i) for i in range(SAMPLES)}


def test_faults_are_told_outside_the_pool_only(pool: Path, tmp_path: Path) -> None:
    told = [line.split("\t") for line in (pool.parent / "faults.tsv").read_text().splitlines()]
    assert [uid for uid, _ in told] == [uid_of(SEED, "pool", i) for i in range(SAMPLES)]
    assert {fault for _, fault in told} <= set(FAULTS)
    with pytest.raises(ConfigError, match="lies in the pool"):
        make_pool(tmp_path / "pool", samples=4, faults=tmp_path / "pool" / "faults.tsv")
    assert not (tmp_path / "pool").exists()


def test_faults_have_their_shares(shard: Samples) -> None:
    assert sum(FAULTS.values()) == pytest.approx(1)
    counts = Counter(FAULT_NAMES[code] for code in shard.fault)
    for name, share in FAULTS.items():
        assert abs(counts[name] / 4096 - share) < 4 * (share * (1 - share) / 4096) ** 0.5


def test_each_fault_is_what_its_name_says(shard: Samples) -> None:
    def of(name: str) -> np.ndarray:
        return np.flatnonzero(shard.fault == FAULT_NAMES.index(name))

    short, long = shard.size.min(axis=1), shard.size.max(axis=1)
    assert (long[of("tiny")] < 90).all()
    assert (long[of("extreme")] > 3 * short[of("extreme")]).all()
    clean = of("none")
    assert (long[clean] <= 3 * short[clean]).all()
    assert 0.05 < (short[clean] < 200).mean() < 0.2
    repeated = Counter(shard.captions[i] for i in of("duplicate"))
    assert max(repeated.values()) >= 3
    right = [captions.subject(row, [0.0] * captions.DRAWS) for row in shard.rows]
    for name, least, most in (("none", 0.9, 1.0), ("swapped", 0.0, 0.5), ("boilerplate", 0.0, 0.3)):
        at = of(name)
        shared = [bool(set(right[i].split()[1:3]) & set(shard.captions[i].split())) for i in at]
        assert least <= np.mean(shared) <= most, name
    assert "" in {shard.captions[i] for i in of("junk")}


def test_trusted_stream_has_no_faults() -> None:
    assert not imagine(Spec("", 0, "trusted", 0, 0, 500)).fault.any()


def test_a_shard_is_the_same_whatever_comes_after(tmp_path: Path) -> None:
    few, many = specs(tmp_path, "pool", 5000, 0), specs(tmp_path, "pool", 20_000, 0)
    assert few[0] == many[0]
    assert [spec.start for spec in many] == [0, 4096, 8192, 12288, 16384]
    assert many[-1].samples == 20_000 - 16_384


def test_a_made_folder_is_kept_and_not_mixed(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(pool)
    make_pool(pool, samples=SAMPLES, seed=SEED)
    assert digests(pool) == before
    with pytest.raises(ConfigError, match="choose another folder"):
        make_pool(pool, samples=SAMPLES + 1, seed=SEED)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds something else"):
        make_pool(tmp_path, samples=4)
    with pytest.raises(ConfigError, match="not positive"):
        make_pool(tmp_path / "x", samples=0)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def fails(draft: Path) -> None:
        (draft / "half").write_text("")
        raise KeyboardInterrupt

    def works(draft: Path) -> None:
        (draft / "all").write_text("")

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / "out", {"n": 1}, fails)
    assert not (tmp_path / "out").exists()
    make_once(tmp_path / "out", {"n": 1}, works)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"all", "made.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_npz_bytes_hang_on_the_arrays_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_npz(tmp_path / f"{name}.npz", {"x": np.arange(5), "y": np.ones((2, 3), np.float16)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert loaded["y"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_cache_folder_is_named_after_what_makes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATACOMP_HARNESS_CACHE", str(tmp_path))
    assert cache.pool_dir() == tmp_path / "tiny" / cache.version() / "pool"
    assert cache.tasks_dir().parent == cache.pool_dir().parent
    assert len(cache.version()) == 12
