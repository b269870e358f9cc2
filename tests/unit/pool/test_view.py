"""What a method can ask of a pool."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from metadata_pool import (
    CAPTIONS,
    SCORE,
    SIZES,
    column,
    every,
    table_of,
    write_file,
    write_metadata,
)

from harness import Pool, executor
from harness.config import load_scale
from harness.errors import ArtifactError, MethodError
from harness.pool import view
from harness.selection.context import SelectionContext
from harness.uid import to_hex as hexes


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

    def note(table: Any) -> npt.NDArray[np.bool_]:
        (tmp_path / "seen").write_text(str(table.num_rows))
        return np.ones(table.num_rows, dtype=bool)

    assert len(Pool.open(tmp_path).filter(note, columns=["text"], within={SCORE: (0.5, None)})) == 14
    assert read == [3] and (tmp_path / "seen").read_text() == "14"


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


@pytest.mark.parametrize("wrong", [2.5, -1, "3", None])
def test_a_sample_is_of_a_whole_number_of_rows(pool: Pool, wrong: Any) -> None:
    with pytest.raises(MethodError, match=rf"^pool\.sample: n={wrong!r} is not a whole number from 0$"):
        pool.sample(wrong, rng=np.random.default_rng(0))
    assert len(pool.sample(np.int64(3), rng=np.random.default_rng(0))) == 3
    assert len(pool.sample(0, rng=np.random.default_rng(0))) == 0


@pytest.mark.parametrize("wrong", [0, -1, 2.5])
def test_stretches_have_a_whole_number_of_rows(pool: Pool, wrong: Any) -> None:
    with pytest.raises(MethodError, match=rf"^pool\.map: rows={wrong!r} is not a whole number from 1$"):
        pool.map(len, columns=["text"], rows=wrong)


def test_samples_are_uniform_and_hang_on_the_seed_alone(pool: Pool, folder: Path) -> None:
    first = pool.sample(30, rng=np.random.default_rng(3))
    other = Pool.open(folder, executor=executor.local(1)).sample(30, rng=np.random.default_rng(3))
    assert len(np.unique(first)) == 30 and np.array_equal(first, other)
    assert not np.array_equal(first, pool.sample(30, rng=np.random.default_rng(4)))
    assert hexes(pool.sample(1000, rng=np.random.default_rng(0))) == sorted(every())


def test_an_open_range_leaves_out_nan_with_and_without_a_function(pool: Pool) -> None:
    expected = sum(not np.isnan(value) for value in column(SCORE))
    assert len(pool.filter(within={SCORE: (None, None)})) == expected < len(pool)
    assert len(pool.filter(lambda table: np.ones(table.num_rows, bool), within={SCORE: (None, None)})) == expected


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
    with pytest.raises(ArtifactError, match=r"npz: no such file .*`python -m harness\.score` makes embeddings"):
        pool.map(lambda table, features: None, features=["b32_img"])


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


@pytest.mark.parametrize("inline", [True, False])
def test_what_a_function_uses_is_a_copy_for_each_file_at_every_size(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    if not inline:
        monkeypatch.setattr(view, "INLINE_ROWS", 0)
    pool.executor = executor.local(1)
    seen, rng = [], np.random.default_rng(0)

    def draw(table: Any) -> float:
        seen.append(table.num_rows)
        return float(rng.random())

    drawn = pool.map(draw, columns=["text"])
    assert seen == [] and drawn == [np.random.default_rng(0).random()] * len(SIZES)
    lock = threading.Lock()
    for use, said in (
        (pool, "cannot use `pool` there"),
        (context(pool), r"cannot use `ctx` there; take .* as in `scratch = ctx\.scratch`"),
        (lock, r"make inside it what cannot be sent \(TypeError: .*lock"),
    ):
        with pytest.raises(MethodError, match=said):
            pool.map(lambda table, use=use: str(use), columns=["text"])


def context(pool: Pool) -> SelectionContext:
    return SelectionContext(
        rng=np.random.default_rng(0), scale=load_scale("tiny"), samples_seen=1, scratch=Path("scratch"),
        executor=pool.executor,
    )  # fmt: skip


@pytest.mark.parametrize("rows", [[3, 2], [2, 2], [-1, 4], [5, sum(SIZES)]])
def test_rows_that_are_no_choice_are_refused(pool: Pool, rows: list[int]) -> None:
    assert hexes(pool.take(np.array([0, 41, 99]))) == sorted([every()[0], every()[41], every()[99]])
    with pytest.raises(MethodError, match="rows must ascend from 0 to 99"):
        pool.take(np.array(rows))


@pytest.mark.parametrize("rows", [[0, 1, 2], np.array([0.5]), np.array([[0, 1]]), np.array([True]), 3, None])
def test_rows_that_are_no_array_of_whole_numbers_are_refused(pool: Pool, rows: Any) -> None:
    with pytest.raises(MethodError, match=r"^pool\.take: rows must be a one-dimensional array of whole numbers"):
        pool.take(rows)
    assert hexes(pool.take(np.array([1, 41], np.uint64))) == sorted([every()[1], every()[41]])
    assert len(pool.take(np.array([]))) == 0


def use(*tables: Any) -> Any:
    return np.ones(tables[0].num_rows, bool)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda pool: pool.filter(use, columns="text"), "filter: columns='text' is not a list of names, such as"),
        (lambda pool: pool.filter(use, features="l14_img"), "filter: features='l14_img' is not a list of names"),
        (lambda pool: pool.filter(use, columns=[1]), r"filter: columns=\[1\] is not a list of names"),
        (lambda pool: pool.map(use, columns="text"), "map: columns='text' is not a list of names"),
        (lambda pool: pool.map(use, features=None), "map: features=None is not a list of names"),
        (lambda pool: pool.filter(within={SCORE: 0.3}), "filter: within=.*: 0.3} does not give each column a pair"),
        (lambda pool: pool.filter(use, within={SCORE: ("a", None)}), r"filter: within=.* does not give each column"),
        (lambda pool: pool.filter(within={SCORE: (1, 2, 3)}), "filter: within=.* does not give each column a pair"),
        (lambda pool: pool.filter(within=[SCORE]), "filter: within=.* does not give each column a pair"),
        (lambda pool: pool.threshold(SCORE, keep="0.3"), "threshold: keep='0.3' is not a fraction"),
        (lambda pool: pool.threshold(SCORE, keep=None), "threshold: keep=None is not a fraction"),
        (lambda pool: pool.threshold(SCORE, keep=10**400), "threshold: keep=1000+.*is not a fraction"),
        (lambda pool: pool.filter(within={SCORE: (None, 10**400)}), "filter: within"),
    ],
)
def test_arguments_of_another_type_are_named(pool: Pool, ask: Callable[[Pool], Any], said: str) -> None:
    with pytest.raises(MethodError, match=rf"^pool\.{said}"):
        ask(pool)


def test_a_range_of_what_is_no_number_is_refused(pool: Pool) -> None:
    for keep in (None, lambda table: np.ones(table.num_rows, dtype=bool)):
        with pytest.raises(ArtifactError, match=r"0\.parquet: column 'text' has type .*expected numbers"):
            pool.filter(keep, within={"text": (1.0, None)})


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


def test_targets_in_another_format_are_named(folder: Path, pool: Pool) -> None:
    (folder / "targets").mkdir(exist_ok=True)
    with open(folder / "targets" / "train.npz", "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ArtifactError, match=r"targets/train\.npz: not a readable npz file: "):
        pool.targets("train")


def test_target_texts_of_any_bytes_are_read(folder: Path, pool: Pool) -> None:
    (folder / "targets").mkdir(exist_ok=True)
    (folder / "targets" / "texts.txt").write_bytes(b"a d\xffg\na cat\n")
    assert pool.target_texts() == ["a d\ufffdg", "a cat"]
