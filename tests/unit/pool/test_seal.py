import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pool_folders import picture, sample, touch_later, uid_of, write_pool, write_tar

from harness import executor, uid
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.files import lock
from harness.pool import seal as sealing
from harness.pool import shards as pool_shards
from harness.pool.__main__ import command
from harness.pool.seal import repeats, seal
from harness.pool.sealed import SealedPool, load_left_out
from harness.records import Record, read_record, write_record
from harness.tars import Reader, index_tar, read_sample

ONE = executor.local(1)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool")


def sealed_again(pool: Path, **more: object) -> SealedPool:
    return seal(str(pool), executor=ONE, **more)  # type: ignore[arg-type]


def left_out(pool: Path) -> list[list[str]]:
    return load_left_out(str(pool))["left_out"]


def remarks(pool: Path) -> list[list[str]]:
    return load_left_out(str(pool))["remarks"]


def test_pool_order_and_contents(pool: Path) -> None:
    sealed = sealed_again(pool)
    assert uid.to_hex(sealed.uids) == [uid_of((s, n)) for s in range(3) for n in range(8)]
    assert sealed.borders.tolist() == [0, 8, 16, 24]
    assert [os.path.basename(path) for path in sealed.shards] == ["00000000.tar", "00000001.tar", "00000002.tar"]
    assert uid.is_sorted(sealed.sorted_uids())
    with Reader(sealed.shards[1]) as reader:
        assert read_sample(reader, sealed.index(1)[3]) == (picture(1003), "caption 3 of shard 1 é")
    payload = read_record(pool / "pool.json", "pool").payload
    assert payload["samples"] == 24
    assert payload["left_out"] == {"count": 0, "reasons": {}}
    assert payload["uids"] == uid.digest(sealed.uids)
    assert left_out(pool) == []
    assert remarks(pool) == []


def test_digest_depends_on_the_content_alone(pool: Path, tmp_path: Path) -> None:
    first = sealed_again(pool)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pool / "shards", elsewhere / "shards", copy_function=shutil.copy)
    second = seal(str(elsewhere), seal_dir=str(tmp_path / "seals"), executor=executor.local(2))
    assert second.digest == first.digest
    assert not (elsewhere / "pool.json").exists()
    assert SealedPool.open(str(elsewhere), str(tmp_path / "seals")).digest == first.digest
    write_tar(elsewhere / "shards" / "00000002.tar", [sample(n, shard=2) for n in range(7)])
    assert seal(str(elsewhere), seal_dir=str(tmp_path / "seals"), executor=ONE).digest != first.digest


def test_sealing_again_looks_at_nothing(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed_again(pool)
    monkeypatch.setattr(pool_shards, "index_tar", None)
    assert sealed_again(pool).digest == before.digest


def test_only_changed_shards_are_done_again(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed_again(pool)
    touch_later(pool / "shards" / "00000001.tar")
    looked: list[str] = []
    real = pool_shards.index_tar
    monkeypatch.setattr(
        pool_shards, "index_tar", lambda path, **how: looked.append(os.path.basename(path)) or real(path, **how)
    )
    assert sealed_again(pool).digest == before.digest
    assert looked == ["00000001.tar"]


def test_interrupted_sealing_goes_on(pool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    undisturbed = seal(str(pool), seal_dir=str(tmp_path / "other"), executor=ONE)
    real = pool_shards.seal_shard

    def dies(job: pool_shards.Job) -> pool_shards.Sealed:
        if job.shard.name == "00000002":
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(pool_shards, "seal_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        sealed_again(pool)
    with pytest.raises(ArtifactError, match=r"the pool is not sealed; run `python -m harness\.pool seal`"):
        SealedPool.open(str(pool))
    looked: list[str] = []
    monkeypatch.setattr(pool_shards, "seal_shard", lambda job: looked.append(job.shard.name) or real(job))
    assert sealed_again(pool).digest == undisturbed.digest
    assert looked == ["00000002"]


def test_unusable_pictures_are_left_out_by_name(pool: Path) -> None:
    bad = [
        sample(0, shard=1),
        sample(1, shard=1, image=b"no picture"),
        sample(2, shard=1, image=b""),
        sample(3, shard=1, image=picture(1)[:-150]),
        sample(4, shard=1, image=picture(1, mode="CMYK")),
        {name: content for name, content in sample(5, shard=1).items() if not name.endswith("json")},
        sample(6, shard=1),
        sample(7, shard=1),
    ]
    write_tar(pool / "shards" / "00000001.tar", bad)
    sealed = sealed_again(pool)
    assert left_out(pool) == [
        ["00000001", "000010001", uid_of((1, 1)), "image does not decode"],
        ["00000001", "000010002", uid_of((1, 2)), "image of zero bytes"],
        ["00000001", "000010003", uid_of((1, 3)), "image does not decode"],
        ["00000001", "000010004", uid_of((1, 4)), "image is not RGB (CMYK or LAB)"],
        ["00000001", "000010005", "", "no json"],
    ]
    assert sealed.left_out()[0]["reason"] == "image does not decode"
    assert len(sealed) == 19
    reasons = read_record(pool / "pool.json", "pool").payload["left_out"]["reasons"]
    assert reasons["image does not decode"] == 2
    assert sum(reasons.values()) == 5


def test_truncated_tar_gives_its_whole_samples(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pool / "shards" / "00000001.tar"
    end = int(index_tar(path)[0]["end"][4])
    with open(path, "r+b") as file:
        file.truncate(end + 700)
    sealed = sealed_again(pool)
    assert len(sealed) == 8 + 5 + 8
    assert ["00000001", "", "", "tar is cut short"] in left_out(pool)
    assert "left out" in capsys.readouterr().err


def test_zeros_before_the_end_of_a_tar(pool: Path) -> None:
    path = pool / "shards" / "00000001.tar"
    size, end = path.stat().st_size, int(index_tar(path)[0]["end"][4])
    os.truncate(path, end)
    os.truncate(path, size)
    assert len(sealed_again(pool)) == 8 + 5 + 8
    assert left_out(pool) == [
        ["00000001", "", "", "fewer samples than its stats.json says"],
        ["00000001", "", "", "tar goes on behind its end mark"],
    ]
    sealed_again(pool, quarantine=True)
    assert left_out(pool) == []


def test_fewer_samples_than_downloaded(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sealed_again(pool)
    stats = pool / "shards" / "00000001_stats.json"
    stats.write_text('{"count": 20, "successes": 9}')
    tar = (pool / "shards" / "00000001.tar").stat()
    # The digest hangs on the tars alone, here and with files that mean nothing.
    assert sealed_again(pool).digest == before.digest
    assert left_out(pool) == [["00000001", "", "", "fewer samples than its stats.json says"]]
    assert "1 left out (1 fewer samples than its stats.json says)" in capsys.readouterr().err
    command(["seal", str(pool)])
    assert "24 samples in 3 shards, 1 left out" in capsys.readouterr().out
    (pool / "shards" / "99999999_stats.json").write_bytes(b"")
    assert sealed_again(pool).digest == before.digest
    assert left_out(pool)[1:] == [["99999999", "", "", "stats.json without its tar"]]
    # Repairing keeps what the download said, and leaves the tar as it is.
    assert sealed_again(pool, quarantine=True).digest == before.digest
    assert left_out(pool) == []
    assert (pool / "shards" / "00000001.tar").stat() == tar
    assert json.loads(stats.read_text()) == {"count": 20, "successes": 8}
    assert json.loads((pool / "quarantine" / stats.name).read_text()) == {"count": 20, "successes": 9}


def test_missing_last_shards(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted copy of a downloaded pool: what is there is whole, and no number is left out."""
    write_tar(pool / "shards" / "00000002.tar", [sample(n, shard=2, image=b"x" * (n < 2)) for n in range(8)])
    for part, pictures in ((1, 20), (2, 9)):
        payload = {"links": 30, "pictures": pictures}
        write_record(pool / f"download_part_{part}_of_2.json", Record(kind="download", payload=payload))
    (pool / "download_log.json").write_text("a user's own")
    sealed_again(pool)
    said = "5 of the 29 pictures that were downloaded (download.json) are not in the tars"
    assert remarks(pool) == [["", "", said]]
    assert f"warning: {pool}: {said}" in capsys.readouterr().err
    assert read_record(pool / "pool.json", "pool").provenance["download"]["rate"] == round(29 / 60, 4)


def test_a_uid_counts_once(pool: Path) -> None:
    # 00000001 repeats a uid of shard 0, and one of its own.
    repeated = [
        sample(0, shard=1),
        sample(1, shard=1, uid=uid_of((0, 2))),
        sample(2, shard=1),
        sample(3, shard=1, uid=uid_of((1, 2))),
    ]
    write_tar(pool / "shards" / "00000001.tar", repeated)
    (pool / "shards" / "00000001_stats.json").unlink()
    sealed = sealed_again(pool)
    assert uid.to_hex(sealed.uids[8:10]) == [uid_of((1, 0)), uid_of((1, 2))]
    assert len(sealed) == len(sealed.index(0)) + len(sealed.index(1)) + len(sealed.index(2)) == 18
    assert left_out(pool) == [
        ["00000001", "000010001", uid_of((0, 2)), "uid stands in an earlier sample"],
        ["00000001", "000010003", uid_of((1, 2)), "uid stands in an earlier sample"],
    ]
    digest = sealed.digest
    touch_later(pool / "shards" / "00000002.tar")
    assert sealed_again(pool).digest == digest
    # When the earlier sample goes, the later one counts.
    (pool / "shards" / "00000000.tar").unlink()
    assert uid_of((0, 2)) in uid.to_hex(sealed_again(pool).uids)


def test_repeats_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    uids = np.empty(500, uid.UID_DTYPE)
    uids["f0"], uids["f1"] = rng.integers(0, 40, 500) << 58, rng.integers(0, 4, 500)
    seen: set[tuple[int, int]] = set()
    expected = [i for i, u in enumerate(uids.tolist()) if u in seen or seen.add(u)]  # type: ignore[func-returns-value]
    assert repeats(uids).tolist() == expected
    monkeypatch.setattr(sealing, "_BUCKET", 50)
    monkeypatch.setattr(sealing, "_CHUNK", 7)
    without = np.concatenate(list(sealing._without(uids, np.array(expected))))
    assert without.tolist() == np.delete(uids, expected).tolist()
    assert repeats(uids).tolist() == expected
    assert repeats(uids[:0]).tolist() == []


def test_remarks(pool: Path) -> None:
    shards = pool / "shards"
    write_tar(shards / "00000005.tar", [sample(0, shard=5, exif="e" * (2 << 20))])
    (shards / "00000000.parquet").write_bytes(b"")
    (shards / "00000007_stats.json").write_text("{}")
    sealed = sealed_again(pool)
    assert len(sealed) == 25
    assert left_out(pool) == [["00000007", "", "", "stats.json without its tar"]]
    said = [(row[0], row[2].split(" of ")[0]) for row in remarks(pool)]
    assert ("00000005", "json") in said
    assert ("00000005", "tar without stats.json") in said
    assert ("00000001", "tar without parquet") in said
    assert ("00000003", "gap in the numbering: no such shard") in said
    assert ("00000004", "gap in the numbering: no such shard") in said


def test_a_tar_called_after_a_date_is_no_gap_of_trillions(pool: Path) -> None:
    for shard, name in enumerate(("20261121104904", "00000005", "²"), start=10):
        write_tar(pool / "shards" / f"{name}.tar", [sample(0, shard=shard)])
    sealed_again(pool)
    assert {(row[0], row[2]) for row in remarks(pool) if "gap" in row[2]} == {
        ("00000003", "gap in the numbering: no such shard"),
        ("00000004", "gap in the numbering: no such shard"),
        ("00000000000000", "gap in the numbering: 20,261,121,104,904 shards are missing from here on"),
    }


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


def test_originals_by_their_sha256(tmp_path: Path) -> None:
    originals = [picture(n) for n in range(6)]
    sums = [hashlib.sha256(content).hexdigest() for content in originals]
    samples = [
        sample(0, image=originals[0]),  # stored as it was
        sample(1, image=picture(1, quality=50), sha256=sums[1]),  # encoded again, and img2dataset says from what
        sample(2, image=picture(2, quality=50), sha256=sums[5]),  # from another picture than in the metadata
        sample(3, image=originals[5]),
        sample(4, image=originals[4]),  # not in the metadata
        sample(5, image=originals[5]),  # in the metadata without a sum
        sample(6, image=picture(77)),  # made from another picture, and its json is none
    ]
    about = samples[6]["000000006.json"]
    samples[6]["000000006.json"] = about.removesuffix(b"}")
    pool = tmp_path / "pool"
    write_tar(pool / "shards" / "0.tar", samples)
    plain = sealed_again(pool)
    with pytest.raises(ArtifactError, match="no parquet file, so the pictures' sha256 cannot be checked"):
        sealed_again(pool, sha256=True)
    (pool / "metadata").mkdir()
    uids = [uid_of((0, n)) for n in (3, 2, 1, 0, 6, 5)]
    pq.write_table(pa.table({"uid": uids}), pool / "metadata" / "a.parquet")
    with pytest.raises(ArtifactError, match=r"a\.parquet: no column 'sha256', so the pictures cannot be compared"):
        sealed_again(pool, sha256=True)
    table = pa.table({"uid": uids, "sha256": [*(sums[n] for n in (3, 2, 1, 0, 0)), None]})
    pq.write_table(table[:2], pool / "metadata" / "a.parquet")
    pq.write_table(table[2:], pool / "metadata" / "b.parquet")
    (pool / ".originals-killed").mkdir()
    checked = sealed_again(pool, sha256=True)
    assert not list(pool.glob(".originals-*"))
    assert uid.to_hex(checked.uids) == [uid_of((0, 0)), uid_of((0, 1))]
    assert [row[2:] for row in left_out(pool)] == [
        [uid_of((0, 2)), "sha256 is not the metadata's"],
        [uid_of((0, 3)), "sha256 is not the metadata's"],
        [uid_of((0, 4)), "metadata has no sha256 for it"],
        [uid_of((0, 5)), "metadata has no sha256 for it"],
        [uid_of((0, 6)), "sha256 is not the metadata's"],
    ]
    assert read_record(pool / "pool.json", "pool").payload["sha256"] is True
    # Metadata that were missing count once they are there.
    pq.write_table(pa.table({"uid": [uid_of((0, 4))], "sha256": [sums[4]]}), pool / "metadata" / "c.parquet")
    assert len(sealed_again(pool)) == 3
    (pool / "metadata" / "c.parquet").unlink()
    assert sealed_again(pool).digest == checked.digest
    # Later commands keep to it, until they are told otherwise.
    touch_later(pool / "shards" / "0.tar")
    assert sealed_again(pool).digest == checked.digest
    assert sealed_again(pool, sha256=False).digest == plain.digest
    assert len(sealed_again(pool)) == 7


def test_quarantine_repairs(pool: Path) -> None:
    shards = pool / "shards"
    write_tar(shards / "00000001.tar", [sample(0, shard=1), sample(1, shard=1, image=b"x"), sample(2, shard=1)])
    (shards / "00000003.tar").write_bytes(b"x" * 2000)
    for number in (3, 4):
        (shards / f"0000000{number}_stats.json").write_text('{"count": 9, "successes": 5}')
    faulty = (shards / "00000001.tar").read_bytes()
    before = sealed_again(pool)
    after = sealed_again(pool, quarantine=True)
    assert left_out(pool) == []
    assert (after.uids == before.uids).all()
    assert index_tar(shards / "00000001.tar")[1] == []
    kept = {str(path.relative_to(pool / "quarantine")) for path in (pool / "quarantine").rglob("*") if path.is_file()}
    stats = {"00000001_stats.json", "00000003_stats.json", "00000004_stats.json"}
    assert kept == {"00000001.tar", "00000003.tar", *stats}
    assert (pool / "quarantine" / "00000001.tar").read_bytes() == faulty
    assert not list(shards.glob("00000003*"))
    # What download reads there stays true.
    assert json.loads((shards / "00000001_stats.json").read_text()) == {"count": 8, "successes": 2}
    assert json.loads((pool / "quarantine" / "00000001_stats.json").read_text()) == {"count": 8, "successes": 8}
    assert sealed_again(pool, quarantine=True).digest == after.digest
    # A second repair of the same shard keeps both originals.
    write_tar(shards / "00000001.tar", [sample(0, shard=1), sample(1, shard=1, image=b"y")])
    sealed_again(pool, quarantine=True)
    assert (pool / "quarantine" / "00000001.1.tar").exists()


def test_quarantine_on_another_disk(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shards are a link to another disk, originals are copied."""

    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    path = write_tar(pool / "shards" / "00000001.tar", [sample(0, shard=1), sample(1, shard=1, image=b"x")])
    faulty = path.read_bytes()
    sealed_again(pool, quarantine=True)
    assert left_out(pool) == []
    assert (pool / "quarantine" / "00000001.tar").read_bytes() == faulty
    # A command that was stopped between the copy and the repair leaves no second copy.
    path.write_bytes(faulty)
    sealed_again(pool, quarantine=True)
    assert {file.name for file in (pool / "quarantine").iterdir()} == {"00000001.tar", "00000001_stats.json"}


def test_a_repair_waits_for_a_download(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the sealed files go: img2dataset may be writing the tars."""

    def waits(said: str) -> None:
        raise KeyboardInterrupt(said)

    monkeypatch.setattr(sealing, "say", waits)
    with lock(pool, shared=True), pytest.raises(KeyboardInterrupt, match=f"{pool}: another command works in this"):
        sealed_again(pool, seal_dir=str(tmp_path / "seal"), quarantine=True)


def test_shards_sealed_by_other_checks_are_looked_at_again(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sealed_again(pool)
    monkeypatch.setattr(pool_shards, "CHECKS", pool_shards.CHECKS + 1)
    monkeypatch.setattr(pool_shards.images, "fault", lambda content: "what the new check finds")
    with pytest.raises(ArtifactError, match="what the new check finds"):
        sealed_again(pool)
    monkeypatch.undo()
    assert sealed_again(pool).digest == before.digest


def test_holdout_depends_on_the_uids_alone(pool: Path, tmp_path: Path) -> None:
    sealed = sealed_again(pool)
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


def test_unwritable_folder(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing.tempfile, "TemporaryFile", _read_only)
    with pytest.raises(InfraError, match=r"pool: cannot be written .* give pool\.seal_dir=DIR"):
        sealed_again(pool)


def _read_only(**_: object) -> None:
    raise OSError(30, "Read-only file system")


def test_full_disk(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InfraError, match=r"0000000\.npy: the disk is full"):
        patch.setattr(np.lib.format, "write_array", full)
        sealed_again(pool)
    # A mapped file would end the process instead.
    with monkeypatch.context() as patch, pytest.raises(InfraError, match=r"uids\.npy: the disk is full"):
        patch.setattr(np.lib.format, "write_array_header_1_0", full)
        patch.setattr(pool_shards, "save_array", np.save)
        sealed_again(pool)


def test_url(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give pool\.seal_dir=DIR"):
        seal(f"local://{pool}", executor=ONE)
    with pytest.raises(ConfigError, match="--quarantine cannot repair it there"):
        seal(f"local://{pool}", seal_dir=str(tmp_path / "s"), executor=ONE, quarantine=True)
    far = seal(f"local://{pool}", seal_dir=str(tmp_path / "s"), executor=ONE)
    assert far.digest == sealed_again(pool).digest
    assert far.shards[0].startswith("local://")
    assert seal(f"local://{pool}", seal_dir=str(tmp_path / "s"), executor=ONE).digest == far.digest


@pytest.mark.parametrize("name", ["uids.npy", "shards.npy", "index/00000001.npy"])
def test_sealed_files_that_do_not_fit(pool: Path, name: str) -> None:
    sealed = sealed_again(pool)
    np.save(pool / name, np.load(pool / name)[:-1])
    with pytest.raises(ArtifactError, match="does not fit"):
        SealedPool.open(str(pool))
        sealed.index(1)
    (pool / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        SealedPool.open(str(pool))
        sealed.index(1)


def test_commands(pool: Path) -> None:
    def harness(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "harness.pool", *arguments], capture_output=True, text=True, timeout=60
        )

    done = harness("seal", str(pool), "--workers", "1")
    assert done.returncode == 0
    assert done.stdout == f"24 samples in 3 shards, 0 left out, digest {SealedPool.open(str(pool)).digest}\n"
    failed = harness("seal", str(pool / "nothing"))
    assert failed.returncode == 5
    assert failed.stderr == f"error: {pool}/nothing/shards: holds no .tar; a pool has its tars in shards/ and its " \
                            "metadata in metadata/\n"  # fmt: skip
    assert harness("seal").returncode == 2


def test_imports_no_torch() -> None:
    code = "import sys, harness.pool.sealed, harness.pool.seal, harness.reshard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_two_commands_at_once(pool: Path) -> None:
    command = [sys.executable, "-m", "harness.pool", "seal", str(pool), "--workers", "1"]
    with sealing.patient_lock(str(pool)):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert other.stderr is not None
        said = other.stderr.readline()
        assert "another command works in this folder; waiting for it to end" in said
    out, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    assert "24 samples" in out
    assert json.loads((pool / "pool.json").read_text())["payload"]["samples"] == 24


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", shards=25, samples=120)
    write_tar(
        pool / "shards" / "00000025.tar", [sample(0, shard=25, image=b"x"), sample(1, shard=25, uid=uid_of((3, 3)))]
    )
    command = [sys.executable, "-m", "harness.pool", "seal", str(pool), "--workers", "1", "--seal-dir"]
    whole = subprocess.run([*command, str(tmp_path / "a")], capture_output=True, text=True, check=True).stdout
    rng = np.random.default_rng(int(time.time()))
    killed = 0
    for _ in range(60):
        arguments = [*command, str(tmp_path / "b")]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            out, _ = process.communicate(timeout=float(rng.uniform(0.4, 1.2)))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    else:
        out = subprocess.run([*command, str(tmp_path / "b")], capture_output=True, text=True, check=True).stdout
    assert killed
    assert out == whole


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


def test_equal_pairs_with_made_uids_are_one(tmp_path: Path) -> None:
    twins = [{f"{n}.jpg": picture(0), f"{n}.txt": b"caption"} for n in range(2)]
    write_tar(tmp_path / "pool" / "shards" / "0.tar", twins)
    assert len(sealed_again(tmp_path / "pool", uids="content")) == 1
    assert left_out(tmp_path / "pool")[0][3] == "uid stands in an earlier sample"


@pytest.mark.parametrize("before", [None, "own"])
def test_a_sealing_that_was_stopped_is_gone_on_with_by_its_own_rules(
    pool: Path, before: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    undisturbed = seal(str(pool), seal_dir=str(tmp_path / "other"), executor=ONE, uids="content")
    if before:
        sealed_again(pool, uids=before)

    def dies(job: pool_shards.Job) -> pool_shards.Sealed:
        raise KeyboardInterrupt

    for uids in ("content", None):
        touch_later(pool / "shards" / "00000001.tar")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pool_shards, "seal_shard", dies)
            sealed_again(pool, uids=uids)
    assert sealed_again(pool).digest == undisturbed.digest
    assert not (pool / ".sealing.json").exists()


def test_an_index_of_a_sealing_that_was_stopped_is_not_taken(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = sealed_again(pool)

    def dies(path: str, record: Record) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool_shards, "write_record", dies)
        sealed_again(pool, uids="content")
    again = sealed_again(pool, uids="own")
    assert again.digest == own.digest
    assert (again.index(0)["uid"] == again.uids[:8]).all()
    assert uid.to_hex(again.uids[:1]) == [uid_of((0, 0))]
