"""The parsers of strangers' files: whatever the bytes, a value or one of our errors."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import uid
from harness.errors import ArtifactError
from harness.records import MAX_DEPTH, Record, read_json, read_record
from harness.uid import UID_DTYPE
from leaderboard import safe
from leaderboard.entries import Entry, is_entry_path
from leaderboard.verify import verify

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FEW = settings(max_examples=150)


@pytest.fixture(scope="module", autouse=True)
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("fuzz")))
        yield


def _file(content: bytes, name: str = "file") -> Path:
    folder = Path(tempfile.mkdtemp())
    (folder / name).write_bytes(content)
    return folder / name


@FEW
@given(st.binary(max_size=400))
def test_any_bytes_as_json(content: bytes) -> None:
    with contextlib.suppress(ArtifactError):
        json.dumps(read_json(_file(content)), allow_nan=False)


@FEW
@given(ANY_JSON)
def test_any_json_as_a_record(value: Any) -> None:
    with contextlib.suppress(ArtifactError):
        record = read_record(_file(json.dumps(value).encode()), "entry")
        assert isinstance(record, Record)


@FEW
@given(
    st.dictionaries(
        st.sampled_from(["about", "scale", "suite", "runs", "tasks", "aggregates", "format", "pool"]), ANY_JSON
    )
)
def test_any_payload_as_an_entry(payload: dict[str, Any]) -> None:
    content = json.dumps({"kind": "entry", "payload": payload}).encode()
    with pytest.raises(ArtifactError):
        Entry.load(_file(content, "entry.json").parent)


@FEW
@given(st.integers(min_value=1, max_value=3 * MAX_DEPTH))
def test_depth_is_bounded(depth: int) -> None:
    path = _file(b"[" * depth + b"]" * depth)
    if depth <= MAX_DEPTH:
        read_json(path)
    else:
        with pytest.raises(ArtifactError):
            read_json(path)


@FEW
@given(
    st.binary(max_size=300), st.sampled_from([b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"\x93NUMPY\x03\x00", b""])
)
def test_any_bytes_as_npy(content: bytes, magic: bytes) -> None:
    path = _file(magic + content)
    for read in (safe.load_uids, safe.check_npy, uid.load):
        with contextlib.suppress(ArtifactError):
            read(path)


@FEW
@given(
    descr=st.sampled_from(
        ["'<u8'", "'|O'", "[('f0', '<u8'), ('f1', '<u8')]", "[('f0', '|O')]", "'<f4'", "[]", "[1]", "{}"]
    ),
    order=st.sampled_from(["True", "False", "0"]),
    shape=st.sampled_from(
        ["(2,)", "(0,)", "()", "(-1,)", "(1.5,)", "(10**20,)", "(2, 2)", "'2'", "(True,)", f"({1 << 47},)"]
    ),
    size=st.integers(min_value=0, max_value=64),
)
def test_any_header_as_npy(descr: str, order: str, shape: str, size: int) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    path = _file(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * size)
    with contextlib.suppress(ArtifactError):
        found = safe.load_uids(path)
        assert found.dtype == UID_DTYPE
        assert found.nbytes == size
    with contextlib.suppress(ArtifactError):
        safe.check_npy(path)


@FEW
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=20))
def test_uid_files_are_read_as_written(values: list[tuple[int, int]]) -> None:
    uids = np.array(values, dtype=UID_DTYPE)
    path = _file(b"")
    uid.save(path, uids)
    assert np.array_equal(safe.load_uids(path), uids)
    safe.check_npy(path)


@FEW
@given(st.text(max_size=60) | st.from_regex(r"(seed-\d+/)?[a-z./]{1,20}\.(json|npy|parquet)", fullmatch=True))
def test_paths_of_an_entry_stay_in_its_folder(path: str) -> None:
    if is_entry_path(path):
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        assert "\0" not in path


@settings(max_examples=60)
@given(st.data())
def test_a_changed_byte_never_stops_the_verifier(honest: Path, data: st.DataObject) -> None:
    content = bytearray((honest / "entry.json").read_bytes())
    place = data.draw(st.integers(min_value=0, max_value=len(content) - 1))
    content[place] = data.draw(st.integers(min_value=0, max_value=255))
    path = _file(bytes(content), "entry.json")
    assert verify(path.parent).outcome == "invalid"
