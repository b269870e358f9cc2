import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pool_folders import sample, uid_of, write_pool, write_tar

from harness import executor, uid
from harness.pool import sealed
from harness.pool.__main__ import command
from harness.pool.diff import diff
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool

ONE = executor.local(1)


@pytest.mark.parametrize("large", [False, True])
def test_diff_of_two_realised_pools(tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pool(tmp_path / "a")
    write_pool(tmp_path / "b", shards=2)
    write_tar(
        tmp_path / "b" / "shards" / "00000001.tar",
        [sample(0, shard=1), sample(1, shard=1, image=b"x"), sample(9, shard=9)],
    )
    a, b = (seal(str(tmp_path / name), executor=ONE) for name in "ab")
    if large:
        monkeypatch.setattr(sealed, "SORT_IN_MEMORY", 0)
        monkeypatch.setattr(uid, "SORT_BLOCK", 3)
    found = diff(a, b, tmp_path / "common.npy")
    assert (found.a, found.b, found.common) == (24, 10, 9)
    common = uid.load(tmp_path / "common.npy")
    assert set(uid.to_hex(common)) == {uid_of((0, n)) for n in range(8)} | {uid_of((1, 0))}
    assert uid.is_sorted(common)
    assert found.reasons == {"image does not decode": 1}
    assert diff(b, a) == dataclasses.replace(found, a=10, b=24)
    assert found.digest == uid.digest(common)
    same = diff(a, a)
    assert same.common == 24
    assert same.reasons == {}
    assert bool(list((tmp_path / "a").glob("sorted-*.npy"))) == large


def test_pools_with_nothing_in_common(tmp_path: Path) -> None:
    for name, shard in (("a", 0), ("b", 5)):
        write_tar(tmp_path / name / "shards" / "0.tar", [sample(0, shard=shard)])
    a, b = (seal(str(tmp_path / name), executor=ONE) for name in "ab")
    assert diff(a, b, tmp_path / "common.npy") == diff(a, b)
    assert "a common universe would hold 0 samples" in diff(a, b).lines()[-1]


def test_diff_command(tmp_path: Path, capsys: object) -> None:
    write_pool(tmp_path / "a", shards=1)
    pool = seal(str(tmp_path / "a"), executor=ONE)
    command(["diff", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "common.npy")])
    assert "a common universe would hold 8 samples" in capsys.readouterr().out  # type: ignore[attr-defined]
    assert (uid.load(tmp_path / "common.npy") == np.asarray(pool.sorted_uids())).all()
    assert SealedPool.open(str(tmp_path / "a")).digest == pool.digest
