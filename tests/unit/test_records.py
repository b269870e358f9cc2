"""Records are strict, and their digest speaks of content alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArtifactError
from harness.records import Record, canonical_json, digest_of, read_json, read_record, write_record

PLAIN = Record(kind="subset", inputs={"pool": "0" * 64}, payload={"size": 3, "fraction": 0.3})


def test_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path / "r.json", PLAIN)
    assert read_record(tmp_path / "r.json", "subset") == PLAIN


def test_digest_leaves_provenance_out() -> None:
    assert PLAIN.model_copy(update={"provenance": {"seconds": 3}}).digest == PLAIN.digest
    assert PLAIN.model_copy(update={"payload": {"size": 4}}).digest != PLAIN.digest


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_digest_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    try:
        digest = digest_of(value)
    except ArtifactError:  # lone surrogates cannot be written
        return
    assert digest_of(dict(reversed(list(value.items())))) == digest
    assert digest_of(json.loads(canonical_json(value))) == digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 40 + "]" * 40, "nested"),
        ("[" * 100_000, "nested"),
        ('{"kind": "subset", "payload": {}, "more": 1}', "more"),
        ('{"kind": "entry", "payload": {}}', "kind 'entry'"),
        ('{"kind": "subset", "payload": {}, "schema_version": 99}', "schema version"),
        ('{"kind": "subset", "payload": {}, "inputs": {"pool": "XYZ"}}', "sha256"),
        ('"\\ud800', "JSON"),
    ],
)
def test_bad_records_are_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=says) as caught:
        read_record(path, "subset")
    assert "bad.json" in str(caught.value)


def test_size_limit(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_text('"' + "x" * 1000 + '"')
    with pytest.raises(ArtifactError, match="larger"):
        read_json(tmp_path / "big.json", limit=100)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.json"
    path.write_bytes(content)
    try:
        read_json(path)
    except ArtifactError as error:
        assert "x.json" in str(error)


def test_writing_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        write_record(tmp_path / "r.json", Record(kind="x", payload={"a": float("nan")}))
    assert not (tmp_path / "r.json").exists()
