"""Every JSON file that the harness writes or receives: versioned, strict, with a digest.

A record is `{schema_version, kind, protocol, inputs, payload, provenance}`. Its digest is the sha256 of its
canonical JSON (sorted keys, no spaces, UTF-8) without `provenance`: what was computed and from what, never
when, where or how fast. Chains of records name each other by digest in `inputs`.
"""

import hashlib
import json
import math
import os
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import ArtifactError
from harness.files import open_file, write_bytes

SCHEMA_VERSION = 1
PROTOCOL = "v1"
"""Version over recipe, order, suite, metrics and score; results of different versions are never ranked together."""

MAX_RECORD_BYTES = 64 << 20
MAX_DEPTH = 32

Json = Any
"""A JSON value: None, bool, int, finite float, str, list or dict with str keys."""


def canonical_json(value: Json) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; ArtifactError for numbers that are not finite."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise ArtifactError(f"a record holds a value that JSON cannot: {error}") from error


def digest_of(value: Json) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class StrictModel(BaseModel):
    """A pydantic model that refuses unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=())


class Record(StrictModel):
    """One JSON file."""

    schema_version: int = SCHEMA_VERSION
    kind: str
    """What the payload is: pool, subset, shards, train, task, evaluation, entry, …"""
    protocol: str = PROTOCOL
    inputs: dict[str, str] = Field(default_factory=dict)
    """Name of each input to its sha256 (hex)."""
    payload: dict[str, Json]
    """What was computed: a function of the inputs alone."""
    provenance: dict[str, Json] = Field(default_factory=dict)
    """Times, rates, hardware, versions, places; outside the digest."""

    @field_validator("inputs")
    @classmethod
    def _hex(cls, inputs: dict[str, str]) -> dict[str, str]:
        for name, value in inputs.items():
            if len(value) != 64 or any(c not in "0123456789abcdef" for c in value):
                raise ValueError(f"input {name!r} is not a sha256 in hex")
        return inputs

    @property
    def digest(self) -> str:
        """sha256 (hex) of the record without its provenance."""
        return digest_of(self.model_dump(exclude={"provenance"}))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result: dict[str, Json] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} stands twice")
        result[key] = value
    return result


def _check_depth(value: Json, path: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ArtifactError(f"{path}: nested more than {MAX_DEPTH} levels deep")


def read_json(path: str | os.PathLike[str], *, limit: int = MAX_RECORD_BYTES) -> Json:
    """The JSON value in `path`, read as if a stranger had written it.

    Raises ArtifactError if the file is missing, larger than `limit` bytes, not UTF-8 JSON, nested too deeply,
    repeats a key or holds NaN or Infinity.
    """
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ArtifactError(f"{path}: larger than {limit} bytes")
    try:
        value = json.loads(content.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except RecursionError as error:
        raise ArtifactError(f"{path}: nested more than {MAX_DEPTH} levels deep") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}") from error
    _check_depth(value, str(path))
    if not _all_finite(value):
        raise ArtifactError(f"{path}: holds a number too large for a float")
    if b"\\ud" in content.lower():  # the only way to half of a surrogate pair, which no file can be written with
        try:
            canonical_json(value)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error
    return value


def _all_finite(value: Json) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    return all(map(_all_finite, value)) if isinstance(value, list) else True


def first_problem(error: ValidationError) -> str:
    """The first finding of a pydantic error as `where: what`."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "record"
    said = problem["msg"].removeprefix("Value error, ")
    usual = {
        "missing": "required, but not given",
        "list_type": "must be a list, as in [a,b]",
        "extra_forbidden": "not known here",
    }
    said = usual.get(problem["type"], said)
    return f"{where}: {said}"


Shape = TypeVar("Shape", bound=BaseModel)


def fitting(path: str | os.PathLike[str], record: Record, shape: type[Shape]) -> Shape:
    """The payload of the record that was read from `path` as `shape`; ArtifactError that says what does not fit."""
    try:
        return shape.model_validate(record.payload, strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a valid record: {first_problem(error)}") from error


def write_record(path: str | os.PathLike[str], record: Record) -> None:
    """Write `record` to `path`, atomically: its existence means that what it describes is complete."""
    canonical_json(record.model_dump())
    text = json.dumps(record.model_dump(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_record(path: str | os.PathLike[str], kind: str | None = None, *, limit: int = MAX_RECORD_BYTES) -> Record:
    """The record in `path`, of that kind if one is given.

    Raises ArtifactError if it is missing, larger than `limit` bytes, not JSON, of another kind or schema version, or
    has unknown keys.
    """
    value = read_json(path, limit=limit)
    try:
        record = Record.model_validate(value, strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a valid record: {first_problem(error)}") from error
    if kind is not None and record.kind != kind:
        raise ArtifactError(f"{path}: holds a record of kind {record.kind!r}, expected {kind!r}")
    if record.schema_version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: schema version {record.schema_version}, this harness reads {SCHEMA_VERSION}; update the harness"
        )
    return record
