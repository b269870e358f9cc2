"""A pool in an object store is sealed and resharded, into the store again, as one on a disk is."""

import errno
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pool_folders import write_pool
from s3_store import store_at_s3

from harness import executor
from harness.errors import InfraError
from harness.pool.seal import seal
from harness.ranges import Copier
from harness.reshard import reshard
from harness.subset import Subset
from harness.tars import index_tar

ONE = executor.local(1)


@pytest.mark.slow
def test_from_s3_to_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    near = seal(str(write_pool(tmp_path / "pool")), executor=ONE)
    subset = Subset.of(np.asarray(near.uids[::2]), np.arange(len(near.uids[::2])) % 3 + 1)
    monkeypatch.setattr("harness.reshard.MAX_SAMPLES", 10)
    copied = reshard(near, subset, out=tmp_path / "out", executor=ONE)
    assert len(copied.shards) > 1
    with store_at_s3(monkeypatch) as store:
        fsspec.filesystem("s3").put(str(tmp_path / "pool" / "shards"), "bucket/pool/shards", recursive=True)
        far = seal("s3://bucket/pool", seal_dir=str(tmp_path / "seal"), executor=ONE)
        assert (far.digest, far.path) == (near.digest, "s3://bucket/pool")
        store.asked.clear()
        for _ in range(2):  # what is done is not done again
            done = reshard(far, subset, out="s3://bucket/out", index_dir=tmp_path / "index", executor=ONE)
            assert done.digest == copied.digest
        written = [key for method, key in store.asked if method == "PUT"]
        assert written == [f"out/{number:08d}.tar" for number in range(len(copied.shards))]
        for path, key in zip(copied.shards, written, strict=True):
            assert store.objects[key] == Path(path).read_bytes()
        # A sample is fetched once, however often it is written, but for one whose copies are cut off by a shard's end.
        assert len(store.asked) - len(written) <= subset.distinct + len(written)
        assert index_tar(done.shards[-1])[0].tolist() == done.index(len(written) - 1).tolist()


class StoreError(Exception):
    """As most stores' libraries raise: no OSError."""


def test_a_store_or_disk_that_takes_no_tar_is_an_infra_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise StoreError("slow down")

    near = seal(str(write_pool(tmp_path / "pool", shards=1)), executor=ONE)
    monkeypatch.setattr(MemoryFileSystem, "put_file", refused)
    with pytest.raises(
        InfraError, match=r"memory://out/00000000\.tar: the store did not answer \(slow down\); run the"
    ):
        reshard(near, Subset.of(np.asarray(near.uids)), out="memory://out", index_dir=tmp_path / "index", executor=ONE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Copier, "append", full)
    with pytest.raises(InfraError, match=rf"^{tempfile.gettempdir()}/.*disk is full"):
        reshard(near, Subset.of(np.asarray(near.uids)), out="memory://out", index_dir=tmp_path / "index", executor=ONE)
