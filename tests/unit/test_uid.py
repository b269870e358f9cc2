import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import npy, uid
from harness.errors import ArtifactError, InfraError

# Few different words, so that equal high words and whole repeats are common.
WORDS = st.one_of(st.integers(0, 3), st.sampled_from([2**63, 2**64 - 1, 2**64 - 2]), st.integers(0, 2**64 - 1))
PAIRS = st.lists(st.tuples(WORDS, WORDS), max_size=60)


def array(pairs: list[tuple[int, int]]) -> uid.Uids:
    return np.array(pairs, dtype=uid.UID_DTYPE)


@settings(max_examples=60)
@given(PAIRS)
def test_hex_is_read_as_the_reference_reads_it(pairs: list[tuple[int, int]]) -> None:
    texts = [f"{high:016x}{low:016x}" for high, low in pairs]
    found = uid.from_hex(texts)
    assert found.tolist() == [(int(text[:16], 16), int(text[16:], 16)) for text in texts]
    assert uid.to_hex(found) == texts


GOOD = "0123456789abcdef" * 2


@settings(max_examples=60)
@given(st.integers(0, 31), st.characters(exclude_characters="0123456789abcdef"), st.integers(0, 5))
def test_one_wrong_character_is_named_with_its_row(place: int, character: str, before: int) -> None:
    wrong = GOOD[:place] + character + GOOD[place + 1 :]
    with pytest.raises(ArtifactError, match=re.escape(f"row {before}: {wrong!r}")):
        uid.from_hex([GOOD] * before + [wrong, GOOD])


@pytest.mark.parametrize("wrong", ["", GOOD.upper(), GOOD[:-1], GOOD + "0", "g" * 32, " " * 32])
def test_what_is_no_uid_is_refused(wrong: str) -> None:
    with pytest.raises(ArtifactError, match="row 2: "):
        uid.from_hex([GOOD, GOOD, wrong])


@settings(max_examples=60)
@given(PAIRS)
def test_order_is_that_of_pairs(pairs: list[tuple[int, int]]) -> None:
    found = uid.sort(array(pairs))
    assert found.tolist() == sorted(pairs)
    assert uid.is_sorted(found)
    assert uid.is_sorted(array(pairs)) == (pairs == sorted(pairs))
    wrong = uid.first_unsorted(array(pairs))
    assert wrong == next((i for i in range(1, len(pairs)) if pairs[i] < pairs[i - 1]), -1)


@settings(max_examples=60)
@given(PAIRS)
def test_sorting_is_stable(pairs: list[tuple[int, int]]) -> None:
    assert uid.argsort(array(pairs)).tolist() == sorted(range(len(pairs)), key=lambda row: pairs[row])


@settings(max_examples=60)
@given(PAIRS, PAIRS, st.sampled_from([0, uid.SPARSE]))
def test_find_gives_the_first_equal_row(
    table: list[tuple[int, int]], queries: list[tuple[int, int]], sparse: int
) -> None:
    ordered = sorted(table)
    wanted = [ordered.index(query) if query in ordered else -1 for query in queries + table]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uid, "SPARSE", sparse)
        assert uid.find(array(ordered), array(queries + table)).tolist() == wanted


@pytest.mark.parametrize("sparse", [0, uid.SPARSE])
def test_find_works_across_blocks(monkeypatch: pytest.MonkeyPatch, sparse: int) -> None:
    monkeypatch.setattr(uid, "SPARSE", sparse)
    monkeypatch.setattr(uid, "BLOCK", 4)
    pairs = [(high, low) for high in (1, 2, 2, 5, 9, 9) for low in range(5)]
    ordered = sorted(pairs)
    queries = [(high, low) for high in range(11) for low in range(7)]
    found = uid.find(array(ordered), array(queries))
    assert found.tolist() == [ordered.index(query) if query in ordered else -1 for query in queries]


@settings(max_examples=60)
@given(st.lists(PAIRS, max_size=5), st.integers(1, 4))
def test_merging_gives_the_sorted_multiset(parts: list[list[tuple[int, int]]], block: int) -> None:
    runs = [array(sorted(part)) for part in parts]
    pieces = list(uid.merged(runs, block=block))
    assert [pair for piece in pieces for pair in piece.tolist()] == sorted(pair for part in parts for pair in part)


@settings(max_examples=60)
@given(st.lists(PAIRS, max_size=4), st.booleans(), st.integers(1, 100))
def test_sorting_through_files(tmp_path_factory: pytest.TempPathFactory, parts: list[list[tuple[int, int]]],
                               distinct: bool, block: int) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("sorted") / "uids.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uid, "SORT_BLOCK", block)
        total = uid.sort_to_file((array(part) for part in parts), path, distinct=distinct)
    every = [pair for part in parts for pair in part]
    wanted = sorted(set(every)) if distinct else sorted(every)
    assert uid.load(path).tolist() == wanted
    assert total == len(wanted)
    assert [file.name for file in path.parent.iterdir()] == ["uids.npy"]


MANY = """
import resource, sys
import numpy as np
from harness import uid
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
if sys.argv[2] == "runs":
    uid.SORT_BLOCK = 100
rng = np.random.default_rng(0)
parts = [np.frombuffer(rng.bytes(16 * 100), uid.UID_DTYPE) for _ in range(200)]
assert uid.sort_to_file(iter(parts), sys.argv[1]) == 20_000
assert np.array_equal(uid.load(sys.argv[1]), np.sort(np.concatenate(parts)))
"""


@pytest.mark.parametrize("case", ["pieces", "runs"])
def test_sorting_needs_few_descriptors(tmp_path: Path, case: str) -> None:
    subprocess.run([sys.executable, "-c", MANY, str(tmp_path / "uids.npy"), case], check=True)


def test_a_full_disk_is_no_fault_of_the_uids() -> None:
    with pytest.raises(InfraError, match="/dev/full: the disk is full"):
        uid.write_pieces("/dev/full", [array([(1, 2)] * 100_000)])


TOO_LARGE = """
import resource, sys
import numpy as np
from harness import npy, uid
from harness.errors import InfraError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
uids = np.zeros(100_000, uid.UID_DTYPE)
for write in (npy.save, uid.save, lambda path, uids: uid.sort_to_file([uids], path)):
    try:
        write(sys.argv[1], uids)
    except InfraError as error:
        print(error)
"""


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "uids.npy"
    done = subprocess.run([sys.executable, "-c", TOO_LARGE, str(path)], check=True, capture_output=True, text=True)
    said = [line.split(": ")[1] for line in done.stdout.splitlines()]
    assert len(said) == 3 and all(line.startswith("the file would exceed") for line in said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(0,), (5,), (3, 4)])
def test_an_array_is_saved_as_numpy_saves_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    npy.save(tmp_path / "ours.npy", values)
    np.save(tmp_path / "numpy.npy", values)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_a_file_is_what_numpy_writes(tmp_path: Path) -> None:
    uids = uid.from_hex([GOOD, GOOD[::-1]])
    uid.save(tmp_path / "ours.npy", uids)
    np.save(tmp_path / "numpy.npy", uids)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_an_empty_file_loads(tmp_path: Path) -> None:
    uid.save(tmp_path / "none.npy", uid.from_hex([]))
    assert len(uid.load(tmp_path / "none.npy")) == 0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not an npy file"),
        (b"garbage", "not an npy file"),
        (b"\x93NUMPY\x01\x00v\x00{'descr'", "the npy header is not a literal"),
    ],
)
def test_what_is_no_uid_file_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{tmp_path}/x\.npy: {fault}"):
        uid.load(tmp_path / "x.npy")
    with pytest.raises(ArtifactError, match=r"none\.npy: no such file"):
        uid.load(tmp_path / "none.npy")


@pytest.mark.parametrize("rows", [0, 3, 1 << 40])
def test_a_header_that_claims_what_is_not_there_allocates_nothing(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "x.npy"
    header = {"descr": np.lib.format.dtype_to_descr(uid.UID_DTYPE), "fortran_order": False, "shape": (rows,)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(32))
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=r"x\.npy: the npy header describes .* bytes, the file has 160"):
        uid.load(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(ArtifactError, match=r"harness\.subset convert"):
        uid.load(tmp_path / "x.npy")
