import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import killing
import numpy as np
import pytest
from pool_folders import (
    ONE,
    left_out,
    picture,
    remarks,
    sample,
    sealed_again,
    touch_later,
    uid_of,
    write_pool,
    write_tar,
)
from waiting import LONG

from harness import executor, uid
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.pool import seal as sealing
from harness.pool import shards as pool_shards
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.records import Record, read_record
from harness.tars import Reader, read_sample


def test_pool_order_and_contents(pool_dir: Path) -> None:
    sealed = sealed_again(pool_dir)
    assert uid.to_hex(sealed.uids) == [uid_of((s, n)) for s in range(3) for n in range(8)]
    assert sealed.borders.tolist() == [0, 8, 16, 24]
    assert [os.path.basename(path) for path in sealed.shards] == ["00000000.tar", "00000001.tar", "00000002.tar"]
    assert uid.is_sorted(sealed.sorted_uids())
    with Reader(sealed.shards[1]) as reader:
        assert read_sample(reader, sealed.index(1)[3]) == (picture(1003), "caption 3 of shard 1 é")
    payload = read_record(pool_dir / "pool.json", "pool").payload
    assert payload["samples"] == 24
    assert payload["left_out"] == {"count": 0, "reasons": {}}
    assert payload["uids"] == uid.digest(sealed.uids)
    assert left_out(pool_dir) == []
    assert remarks(pool_dir) == []


def test_digest_depends_on_the_content_alone(pool_dir: Path, tmp_path: Path) -> None:
    first = sealed_again(pool_dir)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pool_dir / "shards", elsewhere / "shards", copy_function=shutil.copy)
    second = seal(str(elsewhere), seal_dir=str(tmp_path / "seals"), executor=executor.local(2))
    assert second.digest == first.digest
    assert not (elsewhere / "pool.json").exists()
    assert SealedPool.open(str(elsewhere), str(tmp_path / "seals")).digest == first.digest
    write_tar(elsewhere / "shards" / "00000002.tar", [sample(n, shard=2) for n in range(7)])
    assert seal(str(elsewhere), seal_dir=str(tmp_path / "seals"), executor=ONE).digest != first.digest


def test_sealing_again_looks_at_nothing(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed_again(pool_dir)
    monkeypatch.setattr(pool_shards, "index_tar", None)
    assert sealed_again(pool_dir).digest == before.digest


def test_only_changed_shards_are_done_again(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed_again(pool_dir)
    touch_later(pool_dir / "shards" / "00000001.tar")
    looked: list[str] = []
    real = pool_shards.index_tar
    monkeypatch.setattr(
        pool_shards, "index_tar", lambda path, **how: looked.append(os.path.basename(path)) or real(path, **how)
    )
    assert sealed_again(pool_dir).digest == before.digest
    assert looked == ["00000001.tar"]


def test_interrupted_sealing_goes_on(pool_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    undisturbed = seal(str(pool_dir), seal_dir=str(tmp_path / "other"), executor=ONE)
    real = pool_shards.seal_shard

    def dies(job: pool_shards.Job) -> pool_shards.Sealed:
        if job.shard.name == "00000002":
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(pool_shards, "seal_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        sealed_again(pool_dir)
    with pytest.raises(ArtifactError, match=r"the pool is not sealed; run `python -m harness\.pool seal`"):
        SealedPool.open(str(pool_dir))
    looked: list[str] = []
    monkeypatch.setattr(pool_shards, "seal_shard", lambda job: looked.append(job.shard.name) or real(job))
    assert sealed_again(pool_dir).digest == undisturbed.digest
    assert looked == ["00000002"]


def test_parts_of_several_machines_and_temporary_files(tmp_path: Path) -> None:
    for part in range(2):
        write_tar(tmp_path / "shards" / f"part_{part}" / "00000000.tar", [sample(n, shard=part) for n in range(3)])
    write_tar(tmp_path / "shards" / "_tmp" / "00000000.tar", [sample(0)])
    (tmp_path / "shards" / ".00000009.tar.tmp").write_bytes(b"x")
    sealed = sealed_again(tmp_path)
    assert sealed.names == ("part_0/00000000", "part_1/00000000")
    assert uid.to_hex(sealed.uids) == [uid_of((part, n)) for part in range(2) for n in range(3)]
    assert len(sealed.index(1)) == 3


def test_links_are_followed(tmp_path: Path) -> None:
    shards = tmp_path / "pool" / "shards"
    write_tar(shards / "part_1" / "00000000.tar", [sample(n, shard=1) for n in range(3)])
    write_tar(tmp_path / "disk" / "part_2" / "00000000.tar", [sample(n, shard=2) for n in range(3)])
    write_tar(tmp_path / "disk" / "one.tar", [sample(0)])
    (shards / "part_2").symlink_to(tmp_path / "disk" / "part_2")
    (shards / "one.tar").symlink_to(tmp_path / "disk" / "one.tar")
    # Folders that link to each other end somewhere.
    (shards / "part_1" / "all").symlink_to(shards)
    (tmp_path / "disk" / "part_2" / "itself").symlink_to(".")
    assert sealed_again(tmp_path / "pool").names == ("one", "part_1/00000000", "part_2/00000000")
    for name in ("part_3", "two.tar"):
        (shards / name).symlink_to(tmp_path / "no disk" / name)
        with pytest.raises(ArtifactError, match=rf"shards/{name}: a link to nothing; attach the disk"):
            sealed_again(tmp_path / "pool")
        (shards / name).unlink()


def test_shards_sealed_by_other_checks_are_looked_at_again(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed_again(pool_dir)
    monkeypatch.setattr(pool_shards, "CHECKS", pool_shards.CHECKS + 1)
    monkeypatch.setattr(pool_shards.images, "fault", lambda content: "what the new check finds")
    with pytest.raises(ArtifactError, match="what the new check finds"):
        sealed_again(pool_dir)
    monkeypatch.undo()
    assert sealed_again(pool_dir).digest == before.digest


def test_holdout_depends_on_the_uids_alone(pool_dir: Path, tmp_path: Path) -> None:
    sealed = sealed_again(pool_dir)
    rows = sealed.holdout(5)
    assert len(set(rows.tolist())) == 5
    assert (np.diff(rows) > 0).all()
    held = set(uid.to_hex(sealed.uids[rows]))
    order = [(s, n) for n in range(8) for s in range(3)]
    write_tar(tmp_path / "other" / "shards" / "0.tar", [sample(n, shard=s) for s, n in order])
    other = sealed_again(tmp_path / "other")
    assert set(uid.to_hex(other.uids[other.holdout(5)])) == held
    assert set(sealed.holdout(4).tolist()) < set(rows.tolist())
    assert sealed.holdout(0).tolist() == []
    with pytest.raises(ConfigError, match=r"pool\.holdout=24 does not fit"):
        sealed.holdout(24)


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"shards: holds no \.tar; a pool has its tars in shards/"):
        sealed_again(tmp_path)


def test_nothing_usable(tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "0.tar", [sample(0, image=b"x")])
    with pytest.raises(ArtifactError, match="no tar holds a usable sample"):
        sealed_again(tmp_path)
    assert not (tmp_path / "pool.json").exists()
    write_tar(tmp_path / "shards" / "0.tar", [])
    with pytest.raises(ArtifactError, match="no tar holds a usable sample; they are empty"):
        sealed_again(tmp_path)


def test_unwritable_folder(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing.tempfile, "TemporaryFile", _read_only)
    with pytest.raises(InfraError, match=r"pool: cannot be written .* give pool\.seal_dir=DIR"):
        sealed_again(pool_dir)


def _read_only(**_: object) -> None:
    raise OSError(30, "Read-only file system")


def test_full_disk(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InfraError, match=r"0000000\.npy: the disk is full"):
        patch.setattr(np.lib.format, "write_array", full)
        sealed_again(pool_dir)
    # A mapped file would end the process instead.
    with monkeypatch.context() as patch, pytest.raises(InfraError, match=r"uids\.npy: the disk is full"):
        patch.setattr(np.lib.format, "write_array_header_1_0", full)
        patch.setattr(pool_shards, "save_array", np.save)
        sealed_again(pool_dir)


def test_url(pool_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give pool\.seal_dir=DIR"):
        seal(f"local://{pool_dir}", executor=ONE)
    with pytest.raises(ConfigError, match="--quarantine cannot repair it there"):
        seal(f"local://{pool_dir}", seal_dir=str(tmp_path / "s"), executor=ONE, quarantine=True)
    far = seal(f"local://{pool_dir}", seal_dir=str(tmp_path / "s"), executor=ONE)
    assert far.digest == sealed_again(pool_dir).digest
    assert far.shards[0].startswith("local://")
    assert seal(f"local://{pool_dir}", seal_dir=str(tmp_path / "s"), executor=ONE).digest == far.digest


@pytest.mark.parametrize("name", ["uids.npy", "shards.npy", "index/00000001.npy"])
def test_sealed_files_that_do_not_fit(pool_dir: Path, name: str) -> None:
    sealed = sealed_again(pool_dir)
    np.save(pool_dir / name, np.load(pool_dir / name)[:-1])
    with pytest.raises(ArtifactError, match="does not fit"):
        SealedPool.open(str(pool_dir))
        sealed.index(1)
    (pool_dir / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        SealedPool.open(str(pool_dir))
        sealed.index(1)


def test_commands(pool_dir: Path) -> None:
    def harness(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "harness.pool", *arguments], capture_output=True, text=True, timeout=LONG
        )

    done = harness("seal", str(pool_dir), "--workers", "1")
    assert done.returncode == 0
    assert done.stdout == f"24 samples in 3 shards, 0 left out, digest {SealedPool.open(str(pool_dir)).digest}\n"
    failed = harness("seal", str(pool_dir / "nothing"))
    assert failed.returncode == 5
    said = "holds no .tar; a pool has its tars in shards/ and its metadata in metadata/"
    assert failed.stderr == f"error: {pool_dir}/nothing/shards: {said}\n"
    assert harness("seal").returncode == 2


def test_imports_no_torch() -> None:
    code = "import sys, harness.pool.sealed, harness.pool.seal, harness.reshard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=LONG).returncode == 0


def test_two_commands_at_once(pool_dir: Path) -> None:
    command = [sys.executable, "-m", "harness.pool", "seal", str(pool_dir), "--workers", "1"]
    with sealing.patient_lock(str(pool_dir)):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert other.stderr is not None
        said = other.stderr.readline()
        assert "another command works in this folder; waiting for it to end" in said
    out, _ = other.communicate(timeout=LONG)
    assert other.returncode == 0
    assert "24 samples" in out
    assert json.loads((pool_dir / "pool.json").read_text())["payload"]["samples"] == 24


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    pool_dir = write_pool(tmp_path / "pool", shards=25, samples=120)
    write_tar(
        pool_dir / "shards" / "00000025.tar", [sample(0, shard=25, image=b"x"), sample(1, shard=25, uid=uid_of((3, 3)))]
    )

    def run(out: Path, kill_after: float = 0.0) -> tuple[str, float] | None:
        work = f"command(['seal', '{pool_dir}', '--workers', '1', '--seal-dir', '{out}'])"
        imports = "import harness.pool.seal\nfrom harness.pool.__main__ import command"
        return killing.run(imports, work, kill_after=kill_after)

    whole = run(tmp_path / "a")
    assert whole is not None
    rng = np.random.default_rng(int(time.time()))
    assert run(tmp_path / "b", whole[1] * 0.3) is None  # nothing is done yet, so the first is killed for certain
    for _ in range(60):
        found = run(tmp_path / "b", whole[1] * rng.uniform(0.05, 1.2))
        if found is not None:
            break
    else:
        found = run(tmp_path / "b")
    assert found is not None
    assert found[0] == whole[0]
    assert left_out(tmp_path / "b") == left_out(tmp_path / "a")
    assert len(left_out(tmp_path / "b")) == 2


def test_a_pool_sealed_with_made_uids_stays_so(tmp_path: Path) -> None:
    """Tools that seal a pool in passing do not know how its uids were made."""
    bare = [{f"{n}.jpg": picture(n), f"{n}.txt": b"caption"} for n in range(3)]
    write_tar(tmp_path / "pool" / "shards" / "0.tar", bare)
    with pytest.raises(ArtifactError, match="take uids=content"):
        sealed_again(tmp_path / "pool")
    made = sealed_again(tmp_path / "pool", uids="content")
    assert len(made) == 3
    touch_later(tmp_path / "pool" / "shards" / "0.tar")
    assert sealed_again(tmp_path / "pool").digest == made.digest


@pytest.mark.parametrize("before", [None, "own"])
def test_a_sealing_that_was_stopped_is_gone_on_with_by_its_own_rules(
    pool_dir: Path, before: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    undisturbed = seal(str(pool_dir), seal_dir=str(tmp_path / "other"), executor=ONE, uids="content")
    if before:
        sealed_again(pool_dir, uids=before)

    def dies(job: pool_shards.Job) -> pool_shards.Sealed:
        raise KeyboardInterrupt

    for uids in ("content", None):
        touch_later(pool_dir / "shards" / "00000001.tar")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pool_shards, "seal_shard", dies)
            sealed_again(pool_dir, uids=uids)
    assert sealed_again(pool_dir).digest == undisturbed.digest
    assert not (pool_dir / ".sealing.json").exists()


def test_an_index_of_a_sealing_that_was_stopped_is_not_taken(pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = sealed_again(pool_dir)

    def dies(path: str, record: Record) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool_shards, "write_record", dies)
        sealed_again(pool_dir, uids="content")
    again = sealed_again(pool_dir, uids="own")
    assert again.digest == own.digest
    assert (again.index(0)["uid"] == again.uids[:8]).all()
    assert uid.to_hex(again.uids[:1]) == [uid_of((0, 0))]
