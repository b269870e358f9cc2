import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pool_folders import sample, uid_of, write_tar

from harness import decontaminate, duplicates, executor, uid
from harness.decontaminate import disguised, eval_tars, search
from harness.errors import ArtifactError, StageError
from harness.phash import components, distance, near_pairs, phash
from harness.pool.seal import seal
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


def test_too_far_is_refused() -> None:
    with pytest.raises(ValueError, match="distance 5"):
        near_pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64), most=5)


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


def write_task(folder: Path, name: str, pictures: list[Image.Image]) -> None:
    members = [{f"s{i:07d}.png": encoded(picture, "PNG"), f"s{i:07d}.cls": b"0"} for i, picture in enumerate(pictures)]
    write_tar(folder / f"wds_{name}_test" / "test" / "0.tar", members)


def test_evaluation_pictures_in_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_task(tmp_path / "eval", "one", [drawing(seed) for seed in range(10, 20)])
    write_task(tmp_path / "eval", "two", [drawing(seed) for seed in range(20, 30)] + [Image.new("RGB", (40, 40))])
    leaked = [encoded(disguised(drawing(seed))) for seed in (13, 24)]
    images = [*(encoded(drawing(seed)) for seed in range(100, 110)), *leaked]
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(n, image=image) for n, image in enumerate(images)])
    sealed = seal(str(tmp_path / "pool"), executor=ONE)
    found = search(sealed, eval_tars(str(tmp_path / "eval")), ONE)
    assert found.control_recall == 1.0
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
    assert (payload["contaminated"], payload["control_recall"]) == (1, 1.0)
    assert "1 samples show one of 20 evaluation pictures" in capsys.readouterr().out


def test_a_search_that_misses_its_controls_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "eval", "one", [drawing(seed) for seed in range(3)])
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(0)])
    monkeypatch.setattr(decontaminate, "disguised", lambda picture: picture.rotate(90))
    with pytest.raises(StageError, match=r"0\.0% of the planted controls"):
        decontaminate.command([f"pool.path={tmp_path}/pool", f"eval.data_dir={tmp_path}/eval", f"out={tmp_path}/out"])
    with pytest.raises(ArtifactError, match=r"holds no wds_\*/test/\*\.tar"):
        eval_tars(str(tmp_path))


def test_broken_evaluation_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "wds_x_test" / "test" / "0.tar", [{"a.png": b"no picture"}])
    with pytest.raises(ArtifactError, match=r"0\.tar: not a readable tar of pictures"):
        decontaminate.hash_eval_tar(str(path))
