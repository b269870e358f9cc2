"""Metadata as they come: empty, repeated, of other types, broken."""

import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from metadata_pool import (
    SCORE,
    every,
    sealed,
    table_of,
    uid_hex,
    write_file,
    write_metadata,
)

from harness import Pool
from harness.errors import ArtifactError
from harness.uid import to_hex as hexes


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


@pytest.mark.slow
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


@pytest.mark.parametrize("rows", [0, 5])
def test_a_column_of_nulls_alone_has_no_numbers(tmp_path: Path, rows: int) -> None:
    """pandas writes it without a type, in empty files too."""
    folder = write_metadata(tmp_path, (40,), features=False)
    alone = Pool.open(folder)
    chosen, border = alone.filter(within={SCORE: (0.2, None)}), alone.threshold(SCORE, keep=12.5 / 40)
    nulls = {name: pa.nulls(rows) for name in table_of(0, 0)}
    write_file(folder / "metadata" / "more.parquet", nulls | {"uid": [uid_hex(row) for row in range(rows)]})
    pool = Pool.open(folder)
    assert pool.threshold(SCORE, keep=12.5 / (40 + rows)) == border
    assert np.array_equal(pool.filter(within={SCORE: (0.2, None)}), chosen)
    by_function = pool.filter(
        lambda table: np.ones(table.num_rows, bool), columns=["text"], within={SCORE: (0.2, None)}
    )
    assert np.array_equal(by_function, chosen)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("uid", [["x"]]),
        ("uid", [1]),
        ("uid", [bytes(16)]),
        ("uid", [b"\xff" * 16]),
        ("text", [["x"]]),
        ("text", [1]),
        ("text", [b"x"]),
    ],
    ids=["uids of lists", "uids of numbers", "uids of bytes", "uids of bytes beyond text", "lists", "numbers", "bytes"],
)
def test_what_is_no_string_is_named_with_file_and_column(tmp_path: Path, name: str, values: list[Any]) -> None:
    write_file(tmp_path / "metadata" / "a.parquet", table_of(0, 40) | {name: pa.array(values * 40)})
    pool = Pool.open(tmp_path)
    with pytest.raises(ArtifactError, match=rf"a\.parquet: column '{name}' has type .*expected strings"):
        pool.filter(lambda table: np.ones(table.num_rows, bool), columns=["text"])
    if name == "uid":
        with pytest.raises(ArtifactError, match=r"a\.parquet: column 'uid' has type .*expected strings"):
            pool.uids()


def test_uids_of_sixteen_bytes_are_no_strings(tmp_path: Path) -> None:
    uids = pa.array([bytes.fromhex(text) for text in table_of(0, 40)["uid"]], pa.binary(16))
    write_file(tmp_path / "metadata" / "a.parquet", table_of(0, 40) | {"uid": uids})
    for ask in (Pool.uids, lambda pool: pool.take(np.arange(3))):
        with pytest.raises(ArtifactError, match=r"a\.parquet: column 'uid' has type .*expected strings$"):
            ask(Pool.open(tmp_path))


@pytest.mark.parametrize("name", ["uid", "text", SCORE])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    table = pa.table(table_of(0, 40))
    (tmp_path / "metadata").mkdir()
    pq.write_table(table.append_column(name, table.column(name)), tmp_path / "metadata" / "a.parquet")
    for ask in (
        lambda pool: pool.map(len, columns=[name]),
        lambda pool: pool.filter(lambda table: np.ones(table.num_rows, bool), columns=["text"], within={SCORE: (0, 1)}),
        lambda pool: pool.filter(within={SCORE: (0, 1)}),
        lambda pool: pool.threshold(SCORE, keep=0.3),
    ):
        with pytest.raises(ArtifactError, match=rf"a\.parquet: 2 columns are called '{name}'; keep one of them$"):
            ask(Pool.open(tmp_path))


def test_columns_of_views_are_read_as_strings(tmp_path: Path) -> None:
    columns, kinds = table_of(0, 40), {"uid": pa.string_view(), "text": pa.string_view(), "extra": pa.binary_view()}
    answers = []
    for place in ("plain", "views"):
        write_file(tmp_path / place / "metadata" / "a.parquet", columns)
        pool = Pool.open(tmp_path / place)
        chosen = pool.filter(
            lambda table: np.array([len(text) > 10 for text in table["text"].to_pylist()]),
            columns=["text", "extra"],
            within={SCORE: (0.2, None)},
        )
        texts = pool.map(lambda table: table["text"].to_pylist(), columns=["text"])
        answers.append((hexes(chosen), hexes(pool.take(np.arange(0, 40, 3))), hexes(pool.uids()), texts))
        columns = columns | {name: pa.array(columns[name], kind) for name, kind in kinds.items()}
    assert answers[0] == answers[1] and answers[0][0]


def test_decimals_are_no_scores_with_or_without_a_function(tmp_path: Path) -> None:
    values = pa.array([decimal.Decimal("0.25")] * 40)
    write_file(tmp_path / "metadata" / "a.parquet", table_of(0, 40) | {SCORE: values})
    pool = Pool.open(tmp_path)
    for ask in (lambda: pool.threshold(SCORE, keep=0.3), lambda: pool.filter(within={SCORE: (0.2, None)})):
        with pytest.raises(ArtifactError, match="expected numbers"):
            ask()


def test_unreadable_parquet_is_named(folder: Path) -> None:
    path = folder / "metadata" / f"{2:032x}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=rf"{path}: not a readable parquet file"):
        Pool.open(folder).uids()


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


def test_scores_in_half_precision_or_as_dictionary_of_text(tmp_path: Path) -> None:
    columns = table_of(0, 20)
    columns["text"] = pa.array(columns["text"]).dictionary_encode()
    write_file(tmp_path / "metadata" / "a.parquet", columns)
    pool = Pool.open(tmp_path)
    assert pool.map(lambda table: table["text"].to_pylist(), columns=["text"])[0][1] == ""
