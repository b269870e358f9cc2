from pathlib import Path

import numpy as np
from pool_folders import sample, uid_of, write_pool, write_tar

from harness import executor, uid
from harness.pool.__main__ import command
from harness.pool.diff import diff
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool

ONE = executor.local(1)


def test_diff_of_two_realised_pools(tmp_path: Path) -> None:
    write_pool(tmp_path / "a")
    write_pool(tmp_path / "b", shards=2)
    write_tar(
        tmp_path / "b" / "shards" / "00000001.tar",
        [sample(0, shard=1), sample(1, shard=1, image=b"x"), sample(9, shard=9)],
    )
    a, b = (seal(str(tmp_path / name), executor=ONE) for name in "ab")
    found = diff(a, b)
    assert (found.a, found.b) == (24, 10)
    common = {uid_of((0, n)) for n in range(8)} | {uid_of((1, 0))}
    assert set(uid.to_hex(found.common)) == common
    assert uid.is_sorted(found.common)
    assert found.reasons == {"image does not decode": 1}
    assert diff(b, a).digest == found.digest == uid.digest(found.common)
    same = diff(a, a)
    assert len(same.common) == 24
    assert same.reasons == {}


def test_diff_command(tmp_path: Path, capsys: object) -> None:
    write_pool(tmp_path / "a", shards=1)
    sealed = seal(str(tmp_path / "a"), executor=ONE)
    command(["diff", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "common.npy")])
    assert "a common universe would hold 8 samples" in capsys.readouterr().out  # type: ignore[attr-defined]
    assert (uid.load(tmp_path / "common.npy") == np.asarray(sealed.sorted_uids())).all()
    assert SealedPool.open(str(tmp_path / "a")).digest == sealed.digest
