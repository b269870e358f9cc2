import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import serving

from harness import ranges
from harness.errors import ArtifactError, InfraError
from harness.ranges import Copier, Reader, fetch, merged, split_ranges

CONTENT = np.random.default_rng(0).bytes(20_000)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, 20_000), min_size=2, max_size=40, unique=True),
    gather=st.sampled_from([1, 100, 5000, 1 << 20]),
    parts=st.sampled_from([1, 3, 512]),
    prefix=st.sampled_from(["", "local://"]),
)
def test_copied_bytes(tmp_path: Path, cuts: list[int], gather: int, parts: int, prefix: str) -> None:
    (tmp_path / "from").write_bytes(CONTENT)
    cuts = sorted(cuts[: len(cuts) // 2 * 2])
    wanted = np.array(cuts).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_GATHER", gather if len(CONTENT) / gather < 1000 else 100)
        patch.setattr(ranges, "_MAX_PARTS", parts)
        patch.setattr(ranges, "AHEAD", 3000)
        with Reader(f"{prefix}{tmp_path}/from") as reader, open(tmp_path / "to", "wb", buffering=0) as file:
            copier = Copier(file.fileno())
            copier.copy(reader, wanted)
    expected = b"".join(CONTENT[start:end] for start, end in wanted.tolist())
    assert (tmp_path / "to").read_bytes() == expected
    assert copier.written == len(expected)


def test_writes_that_are_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: os.write(descriptor, b"".join(parts)[:3]))
    with open(tmp_path / "to", "wb", buffering=0) as file:
        Copier(file.fileno()).append(b"ab", b"cdefg", b"")
    assert (tmp_path / "to").read_bytes() == b"abcdefg"


@pytest.mark.parametrize("prefix", ["", "local://"])
def test_reading_past_the_end(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "from").write_bytes(CONTENT)
    with Reader(f"{prefix}{tmp_path}/from", ahead=500) as reader:
        assert reader.read(19_990, 50) == CONTENT[19_990:]
        assert reader.read(30_000, 50) == b""
        assert reader.read(100, 50) == CONTENT[100:150]
        assert reader.read(110, 50) == CONTENT[110:160]
        with pytest.raises(ArtifactError, match="ends before byte 20040"):
            reader.exactly(19_990, 50)
        with pytest.raises(ArtifactError, match="ends before byte 20001"):
            reader.many(np.array([[5, 10], [19_000, 20_001]]))


def test_split_ranges() -> None:
    assert split_ranges(np.array([[0, 10], [20, 45], [50, 60]]), 10).tolist() == [
        [0, 10], [20, 30], [30, 40], [40, 45], [50, 60],
    ]  # fmt: skip


def test_neighbouring_ranges_become_one() -> None:
    ranges = np.array([[0, 10], [2, 4], [10, 12], [15, 20], [21, 22], [40, 50]])
    assert merged(ranges, 0).tolist() == [[0, 12], [15, 20], [21, 22], [40, 50]]
    assert merged(ranges, 3).tolist() == [[0, 22], [40, 50]]
    assert merged(ranges, 100).tolist() == [[0, 50]]


class _Moody(BaseHTTPRequestHandler):
    """Says how large a file is, and then hangs up or fails."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        if "busy" in self.path:
            self.send_error(503)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Moody)) as address:
        yield address


@pytest.mark.parametrize("name", ["busy.tar", "gone.tar"])
def test_a_store_that_fails_is_an_infra_error(moody: str, name: str) -> None:
    with Reader(f"{moody}/{name}") as reader:
        for ask in (lambda: reader.read(0, 10), lambda: fetch([(reader, 0, 10), (reader, 20, 30)])):
            with pytest.raises(InfraError, match=rf"{name}: the store did not answer"):
                ask()
