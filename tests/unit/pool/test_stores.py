"""A pool in a store gives what it gives on a disk."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile
from gcs_store import store_at_gs
from loopback import environment
from loopback import served as hub
from metadata_pool import (
    SCORE,
    SIZES,
)
from s3_store import store_at_s3
from serving import serving

from harness import Pool, executor
from harness.errors import ArtifactError, InfraError
from harness.pool import view
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


@dataclass
class Store:
    """A store on this machine that holds a pool."""

    path: str
    """The pool's address."""
    missing: dict[str, str]
    """Address that leads to nothing, to what is said of it."""
    environment: dict[str, str]
    """For processes that shall find the store."""
    refuse: Callable[[int], None]
    """Let it answer everything with this status."""


def contents(folder: Path) -> dict[str, bytes]:
    return {f"some/pool/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NO_POOL = r"no parquet file; pool\.path is the folder above metadata/$"


@contextlib.contextmanager
def at_gs(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    if importlib.util.find_spec("gcsfs") is None:  # the store says how it is to be imported
        pytest.skip("extra gs")

    with store_at_gs(patch) as store:
        store.objects = contents(folder)
        missing = {"gs://bucket/other": NO_POOL, "gs://nobucket/some/pool": NO_POOL}
        yield Store("gs://bucket/some/pool", missing, dict(os.environ), partial(setattr, store, "refused"))


@contextlib.contextmanager
def at_s3(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    pytest.importorskip("s3fs")
    with store_at_s3(patch) as store:
        store.objects = contents(folder)
        missing = {"s3://bucket/other": NO_POOL, "s3://nobucket/some/pool": NO_POOL}
        yield Store("s3://bucket/some/pool", missing, dict(os.environ), partial(setattr, store, "refused"))


@contextlib.contextmanager
def at_hub(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    from huggingface_hub import HfFileSystem, constants

    with hub() as (address, handler):
        handler.files = contents(folder)
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        HfFileSystem.clear_instance_cache()
        repository = "hf://datasets/mlfoundations/datacomp_small"
        nothing = r"the hub has no such repository or revision.*hf://datasets/OWNER/NAME.*`hf auth login`$"
        missing = {
            f"{repository}/other": NO_POOL,
            "hf://datasets/mlfoundations/nothing/some/pool": nothing,
            "hf://mlfoundations/datacomp_small/some/pool": nothing,
        }
        try:
            yield Store(
                f"{repository}/some/pool", missing, environment(address, folder.parent / "home"),
                partial(setattr, handler, "refused"),
            )  # fmt: skip
        finally:
            HfFileSystem.clear_instance_cache()


@pytest.fixture(params=[at_gs, at_hub, at_s3], ids=["gs", "hf", "s3"])
def store(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    # Stores' libraries leave it to the end of the process to close their connections.
    with warnings.catch_warnings(), request.param(folder, monkeypatch) as found:
        warnings.simplefilter("ignore", ResourceWarning)
        yield found


def test_a_pool_in_an_object_store_is_the_same(store: Store, pool: Pool) -> None:
    far = Pool.open(store.path)
    assert answers(far) == answers(pool)
    assert (far.count(), far.columns, far.digest) == (pool.count(), pool.columns, pool.digest)
    for ours, theirs in zip(pool.features("l14_img"), far.features("l14_img"), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    assert far.state == Pool.open(store.path).state


@pytest.mark.slow
def test_processes_of_a_worker_read_an_object_store_that_was_open_before(
    store: Store, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, store.environment.get(name, "1"))
    far = Pool.open(store.path, executor=executor.local(2))
    assert far.count() == pool.count()
    monkeypatch.setattr(view, "INLINE_ROWS", 0)
    assert answers(far) == answers(pool)


def test_what_is_missing_in_an_object_store_is_one_sentence(store: Store) -> None:
    for path, said in store.missing.items():
        with pytest.raises(ArtifactError, match=f"^{path}.*{said}"):
            Pool.open(path)
        with pytest.raises(ArtifactError, match=rf"^{path}/metadata/x\.parquet: "):
            view.open_file(f"{path}/metadata/x.parquet")


@pytest.fixture
def hasty(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose libraries try again at once what it refused."""
    from huggingface_hub.utils import _http

    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if store.path.startswith("gs:"):
        monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=at_once))
    return store


@pytest.mark.parametrize("status", [403, 500])
def test_an_object_store_that_refuses_is_one_sentence(hasty: Store, status: int) -> None:
    pool = Pool.open(hasty.path)
    other = hasty.path.replace("some", "another")
    hasty.refuse(status)
    for act, path in (
        (lambda: Pool.open(other), other), (lambda: pool.threshold(SCORE, keep=0.3), hasty.path),
        (lambda: list(pool.features("b32_img")), hasty.path),
    ):  # fmt: skip
        with pytest.raises(InfraError, match=rf"^{path}/.*: the store did not answer \([^\n]+\); run the same [^\n]+$"):
            act()


def select(store: Store, out: Path, path: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "harness.select", f"pool.path={path}", f"out={out}"]
    return subprocess.run([*command, "method=clip_score", "method.fraction=0.3"], capture_output=True, text=True,
                          timeout=600, env=store.environment)  # fmt: skip


@pytest.mark.slow
def test_selecting_from_an_object_store(store: Store, folder: Path, tmp_path: Path) -> None:
    for name, path in (("near.npy", str(folder)), ("far.npy", store.path)):
        done = select(store, tmp_path / name, path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "near.npy").read_bytes() == (tmp_path / "far.npy").read_bytes()
    missing = list(store.missing)[-1]
    failed = select(store, tmp_path / "none.npy", missing)
    assert failed.returncode == ArtifactError.exit_code
    assert failed.stderr.startswith(f"error: {missing}/") and failed.stderr.count("\n") == 1
    store.refuse(403)
    failed = select(store, tmp_path / "none.npy", store.path)
    assert failed.returncode == InfraError.exit_code
    assert failed.stderr.startswith(f"error: {store.path}/") and failed.stderr.count("\n") == 1
