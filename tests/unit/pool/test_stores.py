"""A pool in a store gives what it gives on a disk."""

import os
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile
from metadata_pool import (
    SCORE,
    SIZES,
)
from serving import serving

from harness import Pool
from harness.errors import InfraError
from harness.uid import to_hex as hexes


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


@pytest.mark.parametrize(("suffix", "below"), [(".parquet", 1 << 20), (".parquet", 500), (".npz", 1 << 20)])
def test_a_store_that_fails_while_it_is_read_is_not_held_against_pool_or_method(
    folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, below: int
) -> None:
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/pool", recursive=True)
    plain, work = MemoryFile.read, lambda table, features: table.num_rows

    def failing(self: Any, *arguments: Any) -> bytes:
        if self.path.endswith(suffix) and self.tell() < below:
            raise ConnectionResetError("connection reset by peer")
        return bytes(plain(self, *arguments))

    try:
        pool = Pool.open("memory://pool")
        assert sum(pool.map(work, columns=["text"], features=["b32_txt"])) == sum(SIZES)
        monkeypatch.setattr(MemoryFile, "read", failing)
        with pytest.raises(InfraError, match=rf"{0:032x}\{suffix}: the store did not answer \(connection reset"):
            pool.map(work, columns=["text"], features=["b32_txt"])
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
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(folder)))) as address:
        yield address


def test_a_pool_on_a_server_is_the_same(pool: Pool, served: str) -> None:
    pytest.importorskip("aiohttp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert answers(Pool.open(served)) == answers(pool)
