import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_pool import uid_hex, write_metadata

from harness import Pool, uid
from harness.errors import ArtifactError, ConfigError, MethodError
from harness.records import Record, write_record
from harness.subset import Subset, convert
from harness.subset.__main__ import command

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def subset(pairs: list[tuple[int, int]]) -> Subset:
    return Subset.of(np.array(pairs, dtype=uid.UID_DTYPE))


@settings(max_examples=60)
@given(PAIRS, PAIRS, st.integers(1, 5))
def test_algebra_is_that_of_multisets(first: list[tuple[int, int]], second: list[tuple[int, int]], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uid, "SORT_BLOCK", block)
        here, there = Counter(first), Counter(second)
        within = Counter({pair: count for pair, count in here.items() if pair in there})
        rules = {"union": here | there, "intersection": here & there, "difference": here - there, "within": within}
        for name, wanted in rules.items():
            combine = getattr(subset(first), name)
            if not wanted:
                with pytest.raises(ArtifactError, match=f"{name} of"):
                    combine(subset(second))
            else:
                assert combine(subset(second)).uids.tolist() == sorted(wanted.elements())


@settings(max_examples=60)
@given(PAIRS, st.integers(1, 5))
def test_counts(pairs: list[tuple[int, int]], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uid, "SORT_BLOCK", block)
        found, wanted = subset(pairs), Counter(pairs)
        assert dict(zip(found.unique.tolist(), found.counts.tolist(), strict=True)) == wanted
        assert (found.distinct, found.max_count) == (len(wanted), max(wanted.values()))
        assert found.describe()["repeats"] == {str(k): v for k, v in sorted(Counter(wanted.values()).items())}
        assert subset(pairs).upweight(3).uids.tolist() == sorted(pairs * 3)


def test_upweighting_by_uid() -> None:
    found = subset([(1, 1), (1, 1), (2, 2)]).upweight(np.array([0, 4]))
    assert found.uids.tolist() == [(2, 2)] * 4


@pytest.mark.parametrize("counts", [1.5, -1, True, [1, 2, 3], [1.9, 1.0]])
def test_counts_that_are_none_are_refused(counts: object) -> None:
    with pytest.raises(MethodError, match=r"Subset\.upweight: counts"):
        subset([(1, 1), (1, 1), (2, 2)]).upweight(np.asarray(counts))


def test_unsorted_names_the_row() -> None:
    with pytest.raises(ArtifactError, match=r"not sorted: uid 0{15}10{16} in row 2"):
        Subset(np.array([(1, 5), (2, 0), (1, 0)], dtype=uid.UID_DTYPE))


def test_empty_is_refused() -> None:
    with pytest.raises(ArtifactError, match="holds no uid"):
        Subset(uid.from_hex([]))


HEX = [uid_hex(row) for row in range(7)]


def write(folder: Path, kind: str) -> tuple[Path, list[str]]:
    path, more = folder / f"uids.{kind}", []
    if kind == "parquet":
        pq.write_table(pa.table({"other": range(7), "id": HEX}), path)
        more = ["column=id"]
    elif kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        path.write_text(f"n{mark}uid\n" + "".join(f"{row}{mark}{text}\n" for row, text in enumerate(HEX)))
    elif kind == "txt":
        path.write_text("\n".join(HEX) + "\n\n")
    elif kind == "raw":
        uid.from_hex(HEX).tofile(path)
    else:
        np.save(path, uid.from_hex(HEX))
    return path, more


@pytest.mark.parametrize("kind", ["npy", "raw", "parquet", "csv", "tsv", "txt"])
def test_convert_reads_every_format(tmp_path: Path, kind: str) -> None:
    path, more = write(tmp_path, kind)
    command(["convert", f"path={path}", f"out={tmp_path / 'out.npy'}", *more])
    assert uid.to_hex(Subset.load(tmp_path / "out.npy").uids) == sorted(HEX)


@pytest.mark.parametrize("text", ["", HEX[0].upper(), HEX[0][1:], "uid"])
def test_convert_names_the_wrong_row(tmp_path: Path, text: str) -> None:
    (tmp_path / "uids.txt").write_text("\n".join([HEX[0], text, HEX[1]]))
    with pytest.raises(ArtifactError, match=r"uids\.txt: row 1: "):
        command(["convert", f"path={tmp_path / 'uids.txt'}", f"out={tmp_path / 'out.npy'}"])
    assert not (tmp_path / "out.npy").exists()


def test_convert_shows_the_beginning_of_a_long_wrong_row(tmp_path: Path) -> None:
    (tmp_path / "uids.txt").write_bytes(bytes(range(11, 256)) * 100)
    with pytest.raises(ArtifactError, match=r"uids\.txt: row 0: .{60}… is not a uid of 32"):
        command(["convert", f"path={tmp_path / 'uids.txt'}", f"out={tmp_path / 'out.npy'}"])


def test_convert_reads_beyond_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "ROWS", 2)
    path = tmp_path / "uids.txt"
    path.write_text("\n".join([*HEX, "", "", "", ""]))
    assert uid.to_hex(np.concatenate(list(convert.read(str(path))))) == HEX
    path.write_text("\n".join([*HEX[:3], "", "", "", HEX[3]]))
    with pytest.raises(ArtifactError, match="row 3: ''"):
        list(convert.read(str(path)))


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt"])
def test_convert_reads_a_list_that_begins_with_a_byte_order_mark(tmp_path: Path, kind: str) -> None:
    path, more = write(tmp_path, kind)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    command(["convert", f"path={path}", f"out={tmp_path / 'out.npy'}", *more])
    assert uid.to_hex(uid.load(tmp_path / "out.npy")) == sorted(HEX)


def test_convert_reads_two_columns_of_words(tmp_path: Path) -> None:
    path, out = tmp_path / "uids.npy", tmp_path / "out.npy"
    words = np.array([[int(text[:16], 16), int(text[16:], 16)] for text in HEX], np.uint64)
    np.save(path, words)
    command(["convert", f"path={path}", f"out={out}"])
    assert uid.to_hex(uid.load(out)) == sorted(HEX)
    for other in (np.asfortranarray(words), words.astype(">u8"), words[:, :1], words.astype(np.int64), words[:, 0]):
        np.save(path, other)
        with pytest.raises(ArtifactError, match=r"uids\.npy: dtype .* \(N, 2\) of uint64 in C order, or strings of 32"):
            command(["convert", f"path={path}", f"out={out}"])


@pytest.mark.parametrize("kind", ["csv", "txt", "parquet"])
def test_a_list_in_place_of_a_uid_file_is_told_how_to_become_one(tmp_path: Path, kind: str) -> None:
    path, _ = write(tmp_path, kind)
    with pytest.raises(ArtifactError, match=rf"{path}: not an npy file .*`python -m harness\.subset convert` makes"):
        Subset.load(path)


@pytest.mark.parametrize("kind", ["U", "S", ">U32"])
def test_convert_reads_an_array_of_strings(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "uids.npy", tmp_path / "out.npy"
    np.save(path, np.array(HEX, kind))
    command(["convert", f"path={path}", f"out={out}"])
    assert uid.to_hex(uid.load(out)) == sorted(HEX)
    np.save(
        path, np.array([*HEX, HEX[0][:-1] + "é"], "U").astype("U") if kind != "S" else np.array([*HEX, b"\xff"], "S")
    )
    with pytest.raises(ArtifactError, match=r"uids\.npy: row 7: "):
        command(["convert", f"path={path}", f"out={out}"])


@pytest.mark.parametrize("kind", ["damaged", "a folder"])
def test_convert_names_the_table_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "uids.parquet"
    if kind == "damaged":
        pq.write_table(pa.table({"uid": HEX * 50}), path, use_dictionary=False)
        content = bytearray(path.read_bytes())
        content[40:120] = bytes(80)
        path.write_bytes(content)
    else:
        path.mkdir()
    with pytest.raises(ArtifactError, match=r"uids\.parquet: not a readable parquet file"):
        command(["convert", f"path={path}", f"out={tmp_path / 'out.npy'}"])


@pytest.mark.parametrize("last", ["", None])
def test_an_empty_cell_of_a_table_is_no_uid(tmp_path: Path, last: str | None) -> None:
    pq.write_table(pa.table({"uid": [*HEX, last]}), tmp_path / "uids.parquet")
    with pytest.raises(ArtifactError, match=r"uids\.parquet: row 7: "):
        command(["convert", f"path={tmp_path / 'uids.parquet'}", f"out={tmp_path / 'out.npy'}"])


def test_nothing_is_no_subset(tmp_path: Path) -> None:
    Subset.of(uid.from_hex(HEX)).save(tmp_path / "a.npy")
    (tmp_path / "empty.txt").write_text("\n")
    files = [f"a={tmp_path / 'a.npy'}", f"b={tmp_path / 'a.npy'}", f"out={tmp_path / 'out.npy'}"]
    for arguments in (["diff", *files], ["convert", f"path={tmp_path / 'empty.txt'}", files[2]]):
        with pytest.raises(ArtifactError, match="holds no uid"):
            command(arguments)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("a.npy", "empty.txt")] == []


def test_check_never_passes_over_a_broken_seal(tmp_path: Path) -> None:
    pool = write_metadata(tmp_path / "pool", (5,), features=False)
    Subset.of(Pool.open(pool).uids()).save(tmp_path / "a.npy")
    (pool / "pool.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"pool\.json"):
        command(["check", f"subset={tmp_path / 'a.npy'}", f"pool.path={pool}"])


def test_convert_refuses_what_it_cannot_tell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format"):
        command(["convert", f"path={tmp_path / 'x.weird'}", f"out={tmp_path / 'out.npy'}"])
    (tmp_path / "x.raw").write_bytes(b"123")
    with pytest.raises(ArtifactError, match="3 bytes"):
        command(["convert", f"path={tmp_path / 'x.raw'}", f"out={tmp_path / 'out.npy'}"])


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write_metadata(tmp_path / "pool", (5, 5), features=False)
    every = [uid_hex((number, row)) for number in range(2) for row in range(5)]
    for name, texts in {"a": every[:6], "b": every[4:]}.items():
        Subset.of(uid.from_hex(texts)).save(tmp_path / f"{name}.npy")
    for name, wanted in {"union": every, "intersect": every[4:6], "diff": every[:4]}.items():
        command([name, f"a={tmp_path / 'a.npy'}", f"b={tmp_path / 'b.npy'}", f"out={tmp_path / 'out.npy'}"])
        assert uid.to_hex(uid.load(tmp_path / "out.npy")) == sorted(wanted)
    upweighted = Subset.of(uid.from_hex(every[3:6]), np.array([4, 1, 3]))
    upweighted.save(tmp_path / "w.npy")
    paths = [f"a={tmp_path / 'w.npy'}", f"b={tmp_path / 'b.npy'}", f"out={tmp_path / 'out.npy'}"]
    capsys.readouterr()
    for setting, wanted, says in (
        ([], [1, 1], "kept 2 (2), lost 6 (1)"), (["counts=a"], [1, 3], "kept 4 (2), lost 4 (1)"),
    ):  # fmt: skip
        command(["intersect", *paths, *setting])
        assert Subset.load(tmp_path / "out.npy").uids.tolist() == Subset.of(
            uid.from_hex(every[4:6]), np.array(wanted)
        ).uids.tolist()  # fmt: skip
        assert f"requested 8 uids (3 distinct), {says}" in capsys.readouterr().out
    command(["info", f"subset={tmp_path / 'a.npy'}"])
    assert json.loads(capsys.readouterr().out)["distinct"] == 6
    command(["check", f"subset={tmp_path / 'a.npy'}", f"pool.path={pool}"])
    assert "6 uids, sorted" in capsys.readouterr().out
    Subset.of(uid.from_hex([*every, "f" * 32])).save(tmp_path / "c.npy")
    with pytest.raises(ArtifactError, match=f"1 of 11 uids are not in the pool .*, the first is {'f' * 32}"):
        command(["check", f"subset={tmp_path / 'c.npy'}", f"pool.path={pool}"])
    with pytest.raises(ConfigError, match="did you mean 'intersect'"):
        command(["intersekt"])
    with pytest.raises(ConfigError, match=r"^setting pool\.path: required, but not given$"):
        command(["check", f"subset={tmp_path / 'c.npy'}"])
    with pytest.raises(ArtifactError, match=f"^{tmp_path}: a folder stands where a file is needed; name the file"):
        command(["info", f"subset={tmp_path}"])


@pytest.mark.parametrize("name", ["union", "intersect", "diff", "convert"])
def test_a_methods_choice_is_not_written_over(tmp_path: Path, name: str) -> None:
    """Its record beside it would tell of other uids."""
    paths = [tmp_path / f"{name}.npy" for name in "ab"]
    for path in paths:
        Subset.of(uid.from_hex([uid_hex(path.name), uid_hex("both")])).save(path)
    before = paths[0].read_bytes()
    inputs = [f"path={paths[1]}"] if name == "convert" else [f"a={paths[0]}", f"b={paths[1]}"]
    write_record(tmp_path / "a.json", Record(kind="subset", payload={}))
    with pytest.raises(ConfigError, match=rf"^setting out: {paths[0]} is a method's choice, told of in .*a\.json"):
        command([name, *inputs, f"out={paths[0]}"])
    assert paths[0].read_bytes() == before
    (tmp_path / "a.json").write_text("{}")  # something else
    command([name, *inputs, f"out={paths[0]}"])
    assert paths[0].read_bytes() != before
