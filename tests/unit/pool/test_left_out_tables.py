"""The tables of what a pool leaves out: written and read in pieces, whole or refused."""

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pool_folders import ONE, left_out, remarks, sample, sealed_again, uid_of, write_pool, write_tar

from harness import uid
from harness.errors import ArtifactError, InfraError
from harness.pool import left_out as tables
from harness.pool import shards as pool_shards
from harness.pool.diff import diff
from harness.pool.left_out import LEFT_OUT, REMARKS
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.pool.union import unite
from harness.tars import Fault

BAD = 5


def rows(n: int) -> Iterator[tuple[str, str, str, str]]:
    return ((f"{i // 100:08d}", f"{i:09d}", uid_of(i) if i % 3 else "", "image does not decode") for i in range(n))


def faulty_pool(folder: Path) -> Path:
    """Three shards of which each leaves out BAD samples, one with a remark."""
    write_pool(folder)
    for s in range(3):
        bad = [sample(n, shard=s, image=b"x") for n in range(10, 10 + BAD)]
        odd = [sample(20, shard=s, exif="e" * (2 << 20))] if s == 1 else []
        write_tar(folder / "shards" / f"{s:08d}.tar", [*(sample(n, shard=s) for n in range(8)), *bad, *odd])
    return folder


@pytest.mark.parametrize("n", [0, 1, 8, 11])
def test_what_is_written_is_read_in_order_and_in_pieces(
    n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS", 4)
    assert LEFT_OUT.write(str(tmp_path), rows(n)) == n
    assert LEFT_OUT.count(str(tmp_path)) == n
    assert list(LEFT_OUT.rows(str(tmp_path))) == list(rows(n))
    assert [len(piece) for piece in LEFT_OUT.pieces(str(tmp_path))] == [4] * (n // 4) + [n % 4] * (n % 4 > 0)
    found = [
        pair
        for uids, reasons in tables.uids_and_reasons(str(tmp_path))
        for pair in zip(uid.to_hex(uids), reasons, strict=True)
    ]
    assert found == [(name, reason) for _, _, name, reason in rows(n) if name]


def test_neither_writing_nor_reading_holds_more_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS", 500)
    LEFT_OUT.write(str(tmp_path), rows(500))  # what pyarrow imports and keeps at first use
    sum(len(uids) for uids, _ in tables.uids_and_reasons(str(tmp_path)))
    held: list[int] = []
    tracemalloc.start()
    try:
        LEFT_OUT.write(str(tmp_path), rows(20_000))
        for uids, _ in tables.uids_and_reasons(str(tmp_path)):
            held.append(len(uids))
        for _ in LEFT_OUT.rows(str(tmp_path)):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        whole = list(rows(20_000))
        _, all_of_it = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(whole) == 20_000
    assert len(held) == 40
    assert peak < all_of_it / 8
    # Beyond Python: of pyarrow's buffers only those of one piece are alive.
    one = next(LEFT_OUT.pieces(str(tmp_path))).nbytes
    before = pa.total_allocated_bytes()
    assert max(pa.total_allocated_bytes() - before for _ in LEFT_OUT.pieces(str(tmp_path))) < 5 * one


def test_sealing_holds_the_rows_of_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Reason] = weakref.WeakSet()
    counts: list[int] = []
    real = pool_shards.findings

    def watched(job: pool_shards.Job) -> pool_shards.Findings:
        gc.collect()
        counts.append(len(alive))
        found = real(job)
        faults = [Fault(fault.name, fault.uid, Reason(fault.reason)) for fault in found.left_out]
        alive.update(fault.reason for fault in faults)  # type: ignore[arg-type]
        return found._replace(left_out=faults)

    monkeypatch.setattr(pool_shards, "findings", watched)
    monkeypatch.setattr(tables, "ROWS", 1)
    pool = faulty_pool(tmp_path / "pool")
    sealed_again(pool)
    assert len(left_out(pool)) == 3 * BAD
    assert len(counts) >= 3
    # When the next shard is read, of the one before at most the row that was written last is left.
    assert max(counts) <= BAD


class Reason(str):
    """A string that a weak set can hold, by identity."""

    __slots__ = ("__weakref__",)
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def test_a_sealing_killed_while_it_writes_the_tables_goes_on_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = faulty_pool(tmp_path / "pool")
    undisturbed = seal(str(pool), seal_dir=str(tmp_path / "other"), executor=ONE)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    real = tables.Table.write
    for table in (LEFT_OUT, REMARKS):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(
                tables.Table, "write", lambda self, *given, at=table: killed() if self is at else real(self, *given)
            )
            sealed_again(pool)
        assert not (pool / "pool.json").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pq.ParquetWriter, "write_table", killed)
        sealed_again(pool)
    assert not list(pool.glob(".*.tmp"))
    monkeypatch.setattr(pool_shards, "index_tar", None)  # shards that are done are not looked at again
    assert sealed_again(pool).digest == undisturbed.digest
    for table in (LEFT_OUT, REMARKS):
        assert (pool / table.file).read_bytes() == (tmp_path / "other" / table.file).read_bytes()
    assert len(left_out(pool)) == 3 * BAD
    assert len(remarks(pool)) == 1


def test_a_pool_that_an_earlier_version_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, other = faulty_pool(tmp_path / "pool"), write_pool(tmp_path / "other")
    digest, rows_then = sealed_again(pool).digest, left_out(pool)
    for table in (LEFT_OUT, REMARKS):
        (pool / table.file).unlink()
    (pool / "left_out.json").write_text("{}")
    opened = SealedPool.open(str(pool))
    for read in (lambda: diff(sealed_again(other), opened), lambda: unite({"a": opened}, tmp_path / "union")):
        with pytest.raises(ArtifactError, match=r"left_out\.parquet: missing, .*; seal the pool again with"):
            read()
    monkeypatch.setattr(pool_shards, "index_tar", None)
    assert sealed_again(pool).digest == digest
    assert left_out(pool) == rows_then
    assert not (pool / "left_out.json").exists()


@pytest.mark.parametrize("table", [LEFT_OUT, REMARKS], ids=lambda table: table.file)
def test_a_table_that_is_not_whole_is_refused_and_sealing_again_mends_it(table: tables.Table, tmp_path: Path) -> None:
    pool = faulty_pool(tmp_path / "pool")
    sealed_again(pool)
    path = pool / table.file
    whole = path.read_bytes()
    wrong_columns, middle = tmp_path / "wrong.parquet", bytearray(whole)
    pq.write_table(pa.table({"shard": ["0"], "key": [1]}), wrong_columns)
    middle[4:60] = b"\xff" * 56
    said = rf"{table.file}: not a whole table \(.*\); delete it and seal the pool again with"
    for content in (whole[:-10], b"", wrong_columns.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=said):
            list(table.rows(str(pool)))
        sealed_again(pool)
        assert path.read_bytes() == whole
    path.write_bytes(middle)
    with pytest.raises(ArtifactError, match=said):
        list(table.rows(str(pool)))
    path.unlink()
    sealed_again(pool)
    assert path.read_bytes() == whole


def test_a_table_that_the_machine_cannot_read_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    LEFT_OUT.write(str(tmp_path), rows(3))
    monkeypatch.setattr(pq, "ParquetFile", forbidden)
    with pytest.raises(InfraError, match=r"left_out\.parquet: permission denied"):
        LEFT_OUT.count(str(tmp_path))


def test_a_full_disk_leaves_no_half_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(InfraError, match=r"left_out\.parquet: the disk is full"):
        LEFT_OUT.write(str(tmp_path), rows(3))
    assert not list(tmp_path.iterdir())


def test_diff_and_union_read_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS", 2)
    faulty = sealed_again(faulty_pool(tmp_path / "faulty"))
    good = [sample(n, shard=s) for s in range(3) for n in range(10, 14)]
    write_tar(tmp_path / "good" / "shards" / "0.tar", good)
    whole = sealed_again(tmp_path / "good")
    assert diff(whole, faulty).reasons == {"image does not decode": 3 * 4}
    union = unite({"a": whole, "b": faulty}, tmp_path / "union")
    assert list(LEFT_OUT.rows(union.seal_dir)) == [
        (f"b/{shard}", *rest) for shard, *rest in left_out(tmp_path / "faulty")
    ]
    assert [row[0] for row in REMARKS.rows(union.seal_dir)] == ["b/00000001"]
    # A union that an earlier version made is made anew.
    (tmp_path / "union" / LEFT_OUT.file).unlink()
    assert unite({"a": whole, "b": faulty}, tmp_path / "union").digest == union.digest
    assert LEFT_OUT.count(union.seal_dir) == 3 * BAD
