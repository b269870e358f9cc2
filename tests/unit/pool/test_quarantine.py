import errno
import json
import os
from pathlib import Path

import pytest
from pool_folders import (
    left_out,
    sample,
    sealed_again,
    write_tar,
)

from harness.files import lock
from harness.pool import seal as sealing
from harness.tars import index_tar


def test_quarantine_repairs(pool_dir: Path) -> None:
    shards = pool_dir / "shards"
    write_tar(shards / "00000001.tar", [sample(0, shard=1), sample(1, shard=1, image=b"x"), sample(2, shard=1)])
    (shards / "00000003.tar").write_bytes(b"x" * 2000)
    for number in (3, 4):
        (shards / f"0000000{number}_stats.json").write_text('{"count": 9, "successes": 5}')
    faulty = (shards / "00000001.tar").read_bytes()
    before = sealed_again(pool_dir)
    after = sealed_again(pool_dir, quarantine=True)
    assert left_out(pool_dir) == []
    assert (after.uids == before.uids).all()
    assert index_tar(shards / "00000001.tar")[1] == []
    put_away = pool_dir / "quarantine"
    kept = {str(path.relative_to(put_away)) for path in put_away.rglob("*") if path.is_file()}
    stats = {"00000001_stats.json", "00000003_stats.json", "00000004_stats.json"}
    assert kept == {"00000001.tar", "00000003.tar", *stats}
    assert (pool_dir / "quarantine" / "00000001.tar").read_bytes() == faulty
    assert not list(shards.glob("00000003*"))
    # What download reads there stays true.
    assert json.loads((shards / "00000001_stats.json").read_text()) == {"count": 8, "successes": 2}
    assert json.loads((pool_dir / "quarantine" / "00000001_stats.json").read_text()) == {"count": 8, "successes": 8}
    assert sealed_again(pool_dir, quarantine=True).digest == after.digest
    # A second repair of the same shard keeps both originals.
    write_tar(shards / "00000001.tar", [sample(0, shard=1), sample(1, shard=1, image=b"y")])
    sealed_again(pool_dir, quarantine=True)
    assert (pool_dir / "quarantine" / "00000001.1.tar").exists()


def test_quarantine_on_another_disk(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shards are a link to another disk, originals are copied."""

    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    path = write_tar(pool_dir / "shards" / "00000001.tar", [sample(0, shard=1), sample(1, shard=1, image=b"x")])
    faulty = path.read_bytes()
    sealed_again(pool_dir, quarantine=True)
    assert left_out(pool_dir) == []
    assert (pool_dir / "quarantine" / "00000001.tar").read_bytes() == faulty
    # A command that was stopped between the copy and the repair leaves no second copy.
    path.write_bytes(faulty)
    sealed_again(pool_dir, quarantine=True)
    assert {file.name for file in (pool_dir / "quarantine").iterdir()} == {"00000001.tar", "00000001_stats.json"}


def test_a_repair_waits_for_a_download(pool_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the sealed files go: img2dataset may be writing the tars."""

    def waits(said: str) -> None:
        raise KeyboardInterrupt(said)

    monkeypatch.setattr(sealing, "say", waits)
    said = f"{pool_dir}: another command works in this"
    with lock(pool_dir, shared=True), pytest.raises(KeyboardInterrupt, match=said):
        sealed_again(pool_dir, seal_dir=str(tmp_path / "seal"), quarantine=True)
