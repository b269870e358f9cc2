import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from metadata_pool import CAPTIONS, table_of, uid_hex, write_features, write_file, write_metadata

from harness import Pool, executor, uid
from harness.errors import ArtifactError, MethodError
from harness.pool import keeping, masks, scanning, view
from harness.pool.reading import MetadataFile
from harness.pool.sealed import SealedPool

SIZES = (40, 25, 35)
SCORE = "clip_l14_similarity_score"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_metadata(tmp_path / "pool", SIZES)


@pytest.fixture
def pool(folder: Path) -> Pool:
    return Pool.open(folder)


def every(sizes: tuple[int, ...] = SIZES) -> list[str]:
    return [uid_hex((number, row)) for number, rows in enumerate(sizes) for row in range(rows)]


def column(name: str) -> list[Any]:
    return [value for number, rows in enumerate(SIZES) for value in np.asarray(table_of(number, rows)[name]).tolist()]


def hexes(uids: uid.Uids) -> list[str]:
    return uid.to_hex(uids)


def test_it_counts_and_names_what_is_there(pool: Pool) -> None:
    assert len(pool) == pool.count() == sum(SIZES)
    assert "text" in pool.columns and SCORE in pool.columns
    assert hexes(pool.uids()) == sorted(every())


def test_no_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no parquet file"):
        Pool.open(tmp_path)


def test_map_gives_a_table_a_file_with_null_captions_empty(pool: Pool) -> None:
    found = pool.map(lambda table: table["text"].to_pylist(), columns=["text"])
    assert [len(texts) for texts in found] == list(SIZES)
    assert [text for texts in found for text in texts] == [
        CAPTIONS[row % len(CAPTIONS)] or "" for rows in SIZES for row in range(rows)
    ]


def test_map_in_stretches_gives_features_of_the_same_rows(pool: Pool, folder: Path) -> None:
    found = pool.map(lambda table, features: (table["uid"].to_pylist(), np.array(features["l14_img"])),
                     columns=["uid"], features=["l14_img"], rows=7)  # fmt: skip
    assert all(len(uids) == len(rows) <= 7 for uids, rows in found)
    assert [text for uids, _ in found for text in uids] == every()
    wanted = [np.load(path)["l14_img"] for path in sorted((folder / "metadata").glob("*.npz"))]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), np.concatenate(wanted))
    np.testing.assert_array_equal(np.concatenate(list(pool.features("l14_img"))), np.concatenate(wanted))


def test_filter_keeps_true(pool: Pool) -> None:
    found = pool.filter(
        lambda table: np.array([len(text) > 10 for text in table["text"].to_pylist()]), columns=["text"]
    )
    texts = [CAPTIONS[row % len(CAPTIONS)] for rows in SIZES for row in range(rows)]
    assert hexes(found) == sorted(u for u, text in zip(every(), texts, strict=True) if text and len(text) > 10)


def test_ranges_are_inclusive_and_leave_out_nan_and_null(pool: Pool) -> None:
    low, high = 0.21, 0.3
    scores, widths = column(SCORE), column("original_width")
    wanted = sorted(
        u for u, score, width in zip(every(), scores, widths, strict=True)
        if np.float32(low) <= np.float32(score) <= np.float32(high) and width is not None and width >= 300
    )  # fmt: skip
    within = {SCORE: (low, high), "original_width": (300, None)}
    assert hexes(pool.filter(within=within)) == wanted
    assert hexes(pool.filter(lambda table: np.ones(table.num_rows, bool), within=within)) == wanted
    assert len(pool.filter(within={SCORE: (float("nan"), None)})) == 0


def test_row_groups_outside_a_range_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = table_of(0, 64)
    columns[SCORE] = np.linspace(0, 0.63, 64, dtype=np.float32)
    write_file(tmp_path / "metadata" / "a.parquet", columns, row_group_size=16)
    read: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def noting(self: Any, *args: Any, row_groups: Any = None, **more: Any) -> Any:
        read.extend(row_groups)
        return plain(self, *args, row_groups=row_groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    seen: list[int] = []

    def note(table: Any) -> npt.NDArray[np.bool_]:
        seen.append(table.num_rows)
        return np.ones(table.num_rows, dtype=bool)

    assert len(Pool.open(tmp_path).filter(note, columns=["text"], within={SCORE: (0.5, None)})) == 14
    assert read == [3] and sum(seen) == 14


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.29, 0.3, 0.5, 0.97, 0.99, 0.999])
@pytest.mark.parametrize("name", ["clip_b32_similarity_score", SCORE, "original_height"])
def test_threshold_is_the_references(pool: Pool, keep: float, name: str) -> None:
    values = np.array(column(name), dtype=np.float64)
    wanted = -np.sort(-values)[int(len(values) * keep)]
    assert pool.threshold(name, keep=keep) == pytest.approx(wanted, abs=0, rel=0, nan_ok=True)


def test_keeping_all_has_no_threshold(pool: Pool) -> None:
    assert pool.threshold(SCORE, keep=1) == -np.inf
    with pytest.raises(MethodError, match="not a fraction"):
        pool.threshold(SCORE, keep=1.5)


def test_samples_are_uniform_and_hang_on_the_seed_alone(pool: Pool, folder: Path) -> None:
    first = pool.sample(30, rng=np.random.default_rng(3))
    other = Pool.open(folder, executor=executor.local(1)).sample(30, rng=np.random.default_rng(3))
    assert len(np.unique(first)) == 30 and np.array_equal(first, other)
    assert not np.array_equal(first, pool.sample(30, rng=np.random.default_rng(4)))
    assert hexes(pool.sample(1000, rng=np.random.default_rng(0))) == sorted(every())
    rng = np.random.default_rng(0)
    for n in (3, 8):
        times = np.bincount(np.concatenate([view._choose(10, n, rng) for _ in range(4000)]), minlength=10)
        assert np.all(np.abs(times - 400 * n) < 6 * np.sqrt(400 * n * (1 - n / 10)))


class _Seal(SealedPool):
    """A sealed pool of given uids, without its files."""

    def sorted_uids(self) -> uid.Uids:
        return uid.sort(self.uids)


def sealed(folder: Path, texts: list[str]) -> SealedPool:
    return _Seal(path=str(folder), seal_dir=str(folder), digest="0" * 64, uids=uid.from_hex(texts),
                 borders=np.array([0, len(texts)]), shards=("0.tar",))  # fmt: skip


@pytest.mark.parametrize("holdout", [0, 9])
def test_only_realised_pairs_are_visible(folder: Path, holdout: int) -> None:
    real = [*every()[::3], uid_hex("not in the metadata")]
    seal = sealed(folder, real)
    held = {real[row] for row in seal.holdout(holdout)}
    wanted = [text for text in every()[::3] if text not in held]
    pool = Pool.open(folder, sealed=seal, holdout=holdout)
    assert len(pool) == len(wanted)
    assert hexes(pool.uids()) == sorted(wanted)
    assert sum(pool.map(lambda table: table.num_rows, columns=["text"])) == len(wanted)
    seen = [
        text
        for part in pool.map(lambda t, f: t["uid"].to_pylist(), columns=["uid"], features=["b32_img"])
        for text in part
    ]
    assert seen == wanted
    scores = dict(zip(every(), column(SCORE), strict=True))
    values = np.array([scores[text] for text in wanted])
    assert pool.threshold(SCORE, keep=0.4) == -np.sort(-values)[int(len(values) * 0.4)]
    assert hexes(pool.filter(within={SCORE: (0.25, None)})) == sorted(
        t for t in wanted if scores[t] >= np.float32(0.25)
    )
    assert set(hexes(pool.sample(5, rng=np.random.default_rng(0)))) <= set(wanted)
    assert pool.contains(uid.sort(uid.from_hex(every()))).sum() == len(wanted)
    assert pool.digest == seal.digest


def test_agreeing_pools_need_no_mask(folder: Path) -> None:
    pool = Pool.open(folder, sealed=sealed(folder, every()))
    assert len(pool) == sum(SIZES)
    assert all(file.mask is None for file in pool._files)


def test_what_is_visible_is_looked_up_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "KEEP_FROM", 0)
    seal, looked = sealed(folder, every()[::3]), []
    uids_of = scanning.uids

    def counted(file: MetadataFile, within: Any) -> uid.Uids:
        looked.append(file.path)
        return uids_of(file, within)

    def lookups(holdout: int = 0) -> int:
        """Files whose uids were read to see which rows are there."""
        looked.clear()
        pool = Pool.open(folder, sealed=seal, holdout=holdout, executor=executor.local(1))
        assert len(pool) == len(every()[::3]) - holdout
        count = len(looked)
        assert set(hexes(pool.uids())) <= set(every()[::3])
        return count

    monkeypatch.setattr(scanning, "uids", counted)
    assert [lookups(), lookups(), lookups(holdout=9), lookups(holdout=9), lookups()] == [3, 0, 3, 0, 0]
    path = folder / "metadata" / f"{1:032x}.parquet"
    os.utime(path, ns=(1, 1))
    assert [lookups(), lookups()] == [1, 0]
    # Where the seal cannot be written nothing is kept.
    shutil.rmtree(folder / f"visible-{seal.digest[:16]}")
    monkeypatch.setattr(masks.Masks, "_place", lambda *_: Path("/sys/visible/mask.npy"))
    assert [lookups(), lookups()] == [3, 3]


def parts_of(pool: Pool) -> list[list[str]]:
    return pool.map(lambda table: table["uid"].to_pylist(), columns=["uid"])


def test_empty_files_and_repeated_uids(tmp_path: Path) -> None:
    write_metadata(tmp_path, (3, 0, 2))
    again = table_of(0, 3)
    write_file(tmp_path / "metadata" / "f.parquet", again)
    pool = Pool.open(tmp_path)
    assert hexes(pool.uids()) == sorted([*every((3, 0, 2)), *every((3,))])
    assert [len(part) for part in parts_of(pool)] == [3, 2, 3]
    assert np.isnan(pool.threshold(SCORE, keep=0.99)) or pool.threshold(SCORE, keep=0.99) > 0


def test_thousands_of_files(tmp_path: Path) -> None:
    for number in range(2000):
        write_file(tmp_path / "metadata" / f"{number:05d}.parquet", {"uid": [uid_hex((number, 0))]})
    assert hexes(Pool.open(tmp_path).uids()) == sorted(uid_hex((number, 0)) for number in range(2000))


GOOD = uid_hex("good")


@pytest.mark.parametrize("wrong", [GOOD.upper(), GOOD[:-1], GOOD + "0", "", None, "g" * 32])
@pytest.mark.parametrize("read", ["uids", "filter", "masked"])
def test_what_is_no_uid_is_named_with_file_and_row(tmp_path: Path, wrong: str | None, read: str) -> None:
    write_metadata(tmp_path, (4,), features=False)
    path = write_file(tmp_path / "metadata" / "z.parquet", {"uid": [GOOD, wrong, GOOD], "text": ["", "a", "a"]})
    keep: Callable[[Any], Any] = lambda table: np.array([text == "a" for text in table["text"].to_pylist()])  # noqa: E731
    seal = sealed(tmp_path, [GOOD]) if read == "masked" else None
    with pytest.raises(ArtifactError) as caught:
        pool = Pool.open(tmp_path, sealed=seal)
        pool.filter(keep, columns=["text"]) if read == "filter" else pool.uids()
    assert str(caught.value).startswith(f"{path}: row 1: {wrong!r} is not a uid")


def test_missing_columns_and_features_are_named(pool: Pool, folder: Path) -> None:
    first = folder / "metadata" / f"{0:032x}.parquet"
    for act in (
        lambda: pool.filter(lambda table: table, columns=["clip_score"]),
        lambda: pool.threshold("clip_score", keep=0.3),
        lambda: pool.filter(within={"clip_score": (0, None)}),
    ):
        with pytest.raises(ArtifactError, match=rf"{first}: no column 'clip_score' \(there are: uid, url"):
            act()
    with pytest.raises(ArtifactError, match=rf"{first.with_suffix('.npz')}: no array 'h14_img' \(there are: b32_img"):
        pool.map(lambda table, features: None, features=["h14_img"])
    with pytest.raises(ArtifactError, match="'text'"):
        pool.threshold("text", keep=0.3)
    first.with_suffix(".npz").unlink()
    with pytest.raises(ArtifactError, match="npz: no such file"):
        pool.map(lambda table, features: None, features=["b32_img"])


def test_features_of_other_length_shape_or_kind_are_refused(folder: Path) -> None:
    path = folder / "metadata" / f"{1:032x}.npz"
    write_features(path, SIZES[1] + 1, 0)
    with pytest.raises(ArtifactError, match=rf"{path}: array 'b32_img' has 26 rows, its parquet file 25"):
        list(Pool.open(folder).features("b32_img"))
    np.savez(path, b32_img=np.arange(25))
    with pytest.raises(ArtifactError, match="two-dimensional floats"):
        list(Pool.open(folder).features("b32_img"))
    path.write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match=rf"{path}: not a readable npz file"):
        list(Pool.open(folder).features("b32_img"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compressed", [False, True])
def test_float32_and_compressed_features_are_read(tmp_path: Path, dtype: type, compressed: bool) -> None:
    write_metadata(tmp_path, (30,), features=False)
    path = tmp_path / "metadata" / f"{0:032x}.npz"
    write_features(path, 30, 0, dtype=dtype, compressed=compressed)
    pool = Pool.open(tmp_path, sealed=sealed(tmp_path, every((30,))[::2]))
    found = pool.map(lambda table, features: features["l14_txt"], features=["l14_txt"], rows=4)
    np.testing.assert_array_equal(np.concatenate(found), np.load(path)["l14_txt"][::2])
    assert found[0].dtype == dtype


def test_compressed_features_that_are_damaged_are_named(tmp_path: Path) -> None:
    write_metadata(tmp_path, (3000,), features=False)
    path = tmp_path / "metadata" / f"{0:032x}.npz"
    write_features(path, 3000, 0, compressed=True)
    content = bytearray(path.read_bytes())
    content[2000:2040] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{path}: not a whole npz file"):
        list(Pool.open(tmp_path).features("b32_img"))


def test_unreadable_parquet_is_named(folder: Path) -> None:
    path = folder / "metadata" / f"{2:032x}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=rf"{path}: not a readable parquet file"):
        Pool.open(folder).uids()


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "NoneType"), ([1, 0], "shape"), (np.ones(3, bool), "shape"), ("all", "str"), (1.0, "float")],
)
def test_a_filter_must_answer_one_boolean_a_row(pool: Pool, answer: Any, said: str) -> None:
    with pytest.raises(MethodError, match="one boolean for each of its") as caught:
        pool.filter(lambda table: answer, columns=["text"])
    assert said in str(caught.value)


@pytest.mark.parametrize("inline", [True, False])
def test_a_function_that_raises_is_told_with_file_and_traceback(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    def broken_filter(table: Any) -> Any:
        return table["text"].to_pylist()[0].nonsense

    if not inline:
        monkeypatch.setattr(view, "INLINE_ROWS", 0)
    pool.executor = executor.local(2)
    try:
        with pytest.raises(MethodError, match=r"0\.parquet: the function raised AttributeError") as caught:
            pool.filter(broken_filter, columns=["text"])
    finally:
        pool.executor.close()
    assert "in broken_filter" in caught.value.__notes__[0]


def test_an_interrupted_pass_goes_on_with_the_files_that_are_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    read, stopped = tmp_path / "read", tmp_path / "stopped"

    def keep(table: Any) -> npt.NDArray[np.bool_]:
        with open(read, "a") as file:
            file.write(table["uid"][0].as_py() + "\n")
        if table["uid"][0].as_py() == uid_hex((2, 0)) and not stopped.exists():
            stopped.touch()
            raise RuntimeError("stopped")
        return np.ones(table.num_rows, dtype=bool)

    scratch = tmp_path / "scratch"
    pool = Pool.open(folder, executor=executor.local(1))
    with pytest.raises(MethodError, match="stopped"):
        pool.resuming(scratch).filter(keep, columns=["uid"])
    found = pool.resuming(scratch).filter(keep, columns=["uid"])
    assert hexes(found) == sorted(every())
    firsts = [line for line in read.read_text().split() if line in {uid_hex((n, 0)) for n in range(3)}]
    assert firsts == [uid_hex((0, 0)), uid_hex((1, 0)), uid_hex((2, 0)), uid_hex((2, 0))]


def test_a_pass_never_takes_what_another_pass_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(more: int, table: Any) -> npt.NDArray[np.int64]:
        return np.array([len(text.split()) + more for text in table["text"].to_pylist()])

    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    pool = Pool.open(folder, executor=executor.local(1))
    first = pool.resuming(tmp_path / "scratch")
    zero, one = (np.concatenate(first.map(partial(words, more), columns=["text"])) for more in (0, 1))
    assert (one == zero + 1).all()
    # The later run leaves out its first pass, as a method may that finds the outcome in its scratch folder.
    again = np.concatenate(pool.resuming(tmp_path / "scratch").map(partial(words, 1), columns=["text"]))
    np.testing.assert_array_equal(again, one)
    assert len(list((tmp_path / "scratch").iterdir())) == 2


IDENTITIES = """
from functools import partial
import numpy as np
from harness.pool.keeping import identity

def made(k):
    table = np.arange(k)
    def inner(text):
        return text in {"one", "two", "three", "four"}
    def outer(text):
        return inner(text) or outer(table[0])
    return partial(outer, columns=("text",))

print(identity(made(3)), identity(made(4)), identity(lambda text: text), identity(partial(print, 3)))
print(identity(partial(print, (x for x in "ab"))))
"""


def test_the_identity_of_a_function_is_the_same_in_another_process() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", IDENTITIES],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert found[0].stdout == found[1].stdout, found[0].stderr
    same, unpicklable = (line.split() for line in found[0].stdout.splitlines())
    assert len(set(same)) == 4 and unpicklable == ["None"]


def test_more_uids_than_memory_wait_in_files(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SPILL_ROWS", 30)
    plain = pool.uids()
    spilt = pool.resuming(tmp_path / "scratch").uids()
    assert hexes(plain) == hexes(spilt) == sorted(every())
    assert isinstance(spilt, np.memmap)


def test_arrays_in_files_stay_when_more_are_made(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SPILL_ROWS", 10)
    view_of_it = pool.resuming(tmp_path / "scratch")
    found = [view_of_it.uids(), *(view_of_it.sample(30, rng=np.random.default_rng(seed)) for seed in (0, 1))]
    assert hexes(found[0]) == sorted(every())
    for seed in (0, 1):
        assert hexes(found[1 + seed]) == hexes(pool.sample(30, rng=np.random.default_rng(seed)))


@pytest.mark.parametrize("rows", [[3, 2], [2, 2], [-1, 4], [5, sum(SIZES)]])
def test_rows_that_are_no_choice_are_refused(pool: Pool, rows: list[int]) -> None:
    assert hexes(pool.take(np.array([0, 41, 99]))) == sorted([every()[0], every()[41], every()[99]])
    with pytest.raises(MethodError, match="rows must ascend from 0 to 99"):
        pool.take(np.array(rows))


def test_a_range_of_what_is_no_number_is_refused(pool: Pool) -> None:
    for keep in (None, lambda table: np.ones(table.num_rows, dtype=bool)):
        with pytest.raises(ArtifactError, match=r"0\.parquet: column 'text' has type .*expected numbers"):
            pool.filter(keep, within={"text": (1.0, None)})


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_limits_are_rounded_to_the_precision_of_a_column(tmp_path: Path, kind: type) -> None:
    values = np.array([0.27, 0.28, 0.29, np.nan, 0.1, -0.0, 1e-8, 0.28], dtype=kind)
    columns = {"uid": every((8,)), "score": values}
    write_file(tmp_path / "metadata" / "a.parquet", columns, row_group_size=2)
    pool = Pool.open(tmp_path)
    for low, high in ((0.28, None), (None, 0.28), (0.0, 0.0), (1e-8, 0.27), (float("nan"), None)):
        inside = values >= kind(-9 if low is None else low)
        inside &= values <= kind(9 if high is None else high)
        wanted = sorted(np.array(every((8,)), dtype=object)[inside])
        for keep in (None, lambda table: np.ones(table.num_rows, dtype=bool)):
            assert hexes(pool.filter(keep, within={"score": (low, high)})) == wanted


def test_the_state_tells_what_changed_on_this_machine(folder: Path) -> None:
    found = [Pool.open(folder).state, Pool.open(folder).state]
    assert found[0] == found[1]
    paths = sorted((folder / "metadata").iterdir())
    for path in (paths[0], paths[1]):
        os.utime(path, ns=(1, 1))
        found.append(Pool.open(folder).state)
    assert len(set(found)) == 3 and len({Pool.open(folder).digest}) == 1


def test_arrays_of_a_pool_are_read_only_and_known_to_it(pool: Pool) -> None:
    uids = pool.uids()
    assert pool.gave(uids) and not pool.gave(uids.copy()) and not pool.gave(uids[1:])
    with pytest.raises(ValueError, match="read-only"):
        uids[0] = uids[1]


def test_metadata_of_other_pairs_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strangers = [uid_hex(("elsewhere", n)) for n in range(20)]
    with pytest.raises(ArtifactError, match=r"metadata: no row has the uid of a pair in the tars; put the pool's own"):
        Pool.open(folder, sealed=sealed(folder, strangers)).uids()
    assert len(Pool.open(folder, sealed=sealed(folder, every()[:7] + strangers))) == 7
    assert "metadata: no row for 20 of 27 pairs in the tars; they cannot be chosen" in capsys.readouterr().err
    assert len(Pool.open(folder, sealed=sealed(folder, every()[:7]), holdout=2)) == 5
    assert capsys.readouterr().err == ""


def test_targets(folder: Path, pool: Pool) -> None:
    with pytest.raises(ArtifactError, match=r"targets/train\.npz: no such file"):
        pool.targets("train")
    (folder / "targets").mkdir()
    np.savez(folder / "targets" / "train.npz", l14_img=np.ones((2, 12), np.float16), label=np.arange(2))
    (folder / "targets" / "texts.txt").write_text("a dog\na cat\n")
    write_metadata(folder / "targets" / "trusted", (5,))
    assert pool.targets("train")["l14_img"].shape == (2, 12)
    assert pool.target_texts() == ["a dog", "a cat"]
    assert len(pool.trusted()) == 5


def answers(pool: Pool) -> list[Any]:
    """What a pool gives, whatever it is read from."""
    return [
        hexes(pool.uids()),
        pool.threshold(SCORE, keep=0.3),
        hexes(pool.filter(within={SCORE: (0.25, None)})),
        [text for part in pool.map(lambda table: table["text"].to_pylist(), columns=["text"]) for text in part],
        np.concatenate(pool.map(lambda t, f: np.array(f["b32_txt"]), features=["b32_txt"], rows=9)).tolist(),
        hexes(pool.sample(20, rng=np.random.default_rng(1))),
    ]


def test_a_pool_in_memory_of_fsspec_is_the_same(pool: Pool, folder: Path) -> None:
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/pool", recursive=True)
    try:
        assert answers(Pool.open("memory://pool")) == answers(pool)
    finally:
        system.rm("/pool", recursive=True)


class _Ranges(SimpleHTTPRequestHandler):
    """Serves parts of files, as object stores do."""

    def send_head(self) -> Any:
        wanted = self.headers.get("Range")
        path = self.translate_path(self.path)
        if not wanted or not os.path.isfile(path):
            return super().send_head()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        size = os.path.getsize(path)
        stop = min(int(last) + 1 if last else size, size)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - int(first)))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(int(first))
            self.wfile.write(file.read(stop - int(first)))
        return None

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_pool_on_a_server_is_the_same(pool: Pool, served: str) -> None:
    pytest.importorskip("aiohttp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert answers(Pool.open(served)) == answers(pool)


def test_scores_in_half_precision_or_as_dictionary_of_text(tmp_path: Path) -> None:
    columns = table_of(0, 20)
    columns["text"] = pa.array(columns["text"]).dictionary_encode()
    write_file(tmp_path / "metadata" / "a.parquet", columns)
    pool = Pool.open(tmp_path)
    assert pool.map(lambda table: table["text"].to_pylist(), columns=["text"])[0][1] == ""
