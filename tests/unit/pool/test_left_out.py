"""What is not used of a pool, and what is odd but used."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pool_folders import left_out, picture, remarks, sample, sealed_again, touch_later, uid_of, write_tar

from harness import uid
from harness.pool import seal as sealing
from harness.pool.__main__ import command
from harness.pool.seal import repeats
from harness.records import Record, read_record, write_record
from harness.tars import index_tar


def test_unusable_pictures_are_left_out_by_name(pool_dir: Path) -> None:
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
    write_tar(pool_dir / "shards" / "00000001.tar", bad)
    sealed = sealed_again(pool_dir)
    assert left_out(pool_dir) == [
        ["00000001", "000010001", uid_of((1, 1)), "image does not decode"],
        ["00000001", "000010002", uid_of((1, 2)), "image of zero bytes"],
        ["00000001", "000010003", uid_of((1, 3)), "image does not decode"],
        ["00000001", "000010004", uid_of((1, 4)), "image is not RGB (CMYK or LAB)"],
        ["00000001", "000010005", "", "no json"],
    ]
    assert len(sealed) == 19
    reasons = read_record(pool_dir / "pool.json", "pool").payload["left_out"]["reasons"]
    assert reasons["image does not decode"] == 2
    assert sum(reasons.values()) == 5


def test_truncated_tar_gives_its_whole_samples(pool_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pool_dir / "shards" / "00000001.tar"
    end = int(index_tar(path)[0]["end"][4])
    with open(path, "r+b") as file:
        file.truncate(end + 700)
    sealed = sealed_again(pool_dir)
    assert len(sealed) == 8 + 5 + 8
    assert ["00000001", "", "", "tar is cut short"] in left_out(pool_dir)
    assert "left out" in capsys.readouterr().err


def test_zeros_before_the_end_of_a_tar(pool_dir: Path) -> None:
    path = pool_dir / "shards" / "00000001.tar"
    size, end = path.stat().st_size, int(index_tar(path)[0]["end"][4])
    os.truncate(path, end)
    os.truncate(path, size)
    assert len(sealed_again(pool_dir)) == 8 + 5 + 8
    assert left_out(pool_dir) == [
        ["00000001", "", "", "fewer samples than its stats.json says"],
        ["00000001", "", "", "tar goes on behind its end mark"],
    ]
    sealed_again(pool_dir, quarantine=True)
    assert left_out(pool_dir) == []


def test_fewer_samples_than_downloaded(pool_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sealed_again(pool_dir)
    stats = pool_dir / "shards" / "00000001_stats.json"
    stats.write_text('{"count": 20, "successes": 9}')
    tar = (pool_dir / "shards" / "00000001.tar").stat()
    # The digest hangs on the tars alone, here and with files that mean nothing.
    assert sealed_again(pool_dir).digest == before.digest
    assert left_out(pool_dir) == [["00000001", "", "", "fewer samples than its stats.json says"]]
    assert "1 left out (1 fewer samples than its stats.json says)" in capsys.readouterr().err
    command(["seal", str(pool_dir)])
    assert "24 samples in 3 shards, 1 left out" in capsys.readouterr().out
    (pool_dir / "shards" / "99999999_stats.json").write_bytes(b"")
    assert sealed_again(pool_dir).digest == before.digest
    assert left_out(pool_dir)[1:] == [["99999999", "", "", "stats.json without its tar"]]
    # Repairing keeps what the download said, and leaves the tar as it is.
    assert sealed_again(pool_dir, quarantine=True).digest == before.digest
    assert left_out(pool_dir) == []
    assert (pool_dir / "shards" / "00000001.tar").stat() == tar
    assert json.loads(stats.read_text()) == {"count": 20, "successes": 8}
    assert json.loads((pool_dir / "quarantine" / stats.name).read_text()) == {"count": 20, "successes": 9}


def test_missing_last_shards(pool_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted copy of a downloaded pool: what is there is whole, and no number is left out."""
    write_tar(pool_dir / "shards" / "00000002.tar", [sample(n, shard=2, image=b"x" * (n < 2)) for n in range(8)])
    for part, pictures in ((1, 20), (2, 9)):
        payload = {"links": 30, "pictures": pictures}
        write_record(pool_dir / f"download_part_{part}_of_2.json", Record(kind="download", payload=payload))
    (pool_dir / "download_log.json").write_text("a user's own")
    sealed_again(pool_dir)
    said = "5 of the 29 pictures that were downloaded (download.json) are not in the tars"
    assert remarks(pool_dir) == [["", "", said]]
    assert f"warning: {pool_dir}: {said}" in capsys.readouterr().err
    assert read_record(pool_dir / "pool.json", "pool").provenance["download"]["rate"] == round(29 / 60, 4)


def test_a_uid_counts_once(pool_dir: Path) -> None:
    # 00000001 repeats a uid of shard 0, and one of its own.
    repeated = [
        sample(0, shard=1),
        sample(1, shard=1, uid=uid_of((0, 2))),
        sample(2, shard=1),
        sample(3, shard=1, uid=uid_of((1, 2))),
    ]
    write_tar(pool_dir / "shards" / "00000001.tar", repeated)
    (pool_dir / "shards" / "00000001_stats.json").unlink()
    sealed = sealed_again(pool_dir)
    assert uid.to_hex(sealed.uids[8:10]) == [uid_of((1, 0)), uid_of((1, 2))]
    assert len(sealed) == len(sealed.index(0)) + len(sealed.index(1)) + len(sealed.index(2)) == 18
    assert left_out(pool_dir) == [
        ["00000001", "000010001", uid_of((0, 2)), "uid stands in an earlier sample"],
        ["00000001", "000010003", uid_of((1, 2)), "uid stands in an earlier sample"],
    ]
    digest = sealed.digest
    touch_later(pool_dir / "shards" / "00000002.tar")
    assert sealed_again(pool_dir).digest == digest
    # When the earlier sample goes, the later one counts.
    (pool_dir / "shards" / "00000000.tar").unlink()
    assert uid_of((0, 2)) in uid.to_hex(sealed_again(pool_dir).uids)


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


def test_equal_pairs_with_made_uids_are_one(tmp_path: Path) -> None:
    twins = [{f"{n}.jpg": picture(0), f"{n}.txt": b"caption"} for n in range(2)]
    write_tar(tmp_path / "pool" / "shards" / "0.tar", twins)
    assert len(sealed_again(tmp_path / "pool", uids="content")) == 1
    assert left_out(tmp_path / "pool")[0][3] == "uid stands in an earlier sample"


def test_remarks(pool_dir: Path) -> None:
    shards = pool_dir / "shards"
    write_tar(shards / "00000005.tar", [sample(0, shard=5, exif="e" * (2 << 20))])
    (shards / "00000000.parquet").write_bytes(b"")
    (shards / "00000007_stats.json").write_text("{}")
    (shards / "00000001_stats.json").write_text('{"succ')
    sealed = sealed_again(pool_dir)
    assert len(sealed) == 25
    assert left_out(pool_dir) == [["00000007", "", "", "stats.json without its tar"]]
    said = [(row[0], row[2].split(" of ")[0]) for row in remarks(pool_dir)]
    assert ("00000005", "json") in said
    assert ("00000005", "tar without stats.json") in said
    assert ("00000001", "tar without parquet") in said
    assert ("00000001", "stats.json cannot be read") in said
    assert ("00000003", "gap in the numbering: no such shard") in said
    assert ("00000004", "gap in the numbering: no such shard") in said


def test_a_tar_called_after_a_date_is_no_gap_of_trillions(pool_dir: Path) -> None:
    for shard, name in enumerate(("20261121104904", "00000005", "²"), start=10):
        write_tar(pool_dir / "shards" / f"{name}.tar", [sample(0, shard=shard)])
    sealed_again(pool_dir)
    assert {(row[0], row[2]) for row in remarks(pool_dir) if "gap" in row[2]} == {
        ("00000003", "gap in the numbering: no such shard"),
        ("00000004", "gap in the numbering: no such shard"),
        ("00000000000000", "gap in the numbering: 20,261,121,104,904 shards are missing from here on"),
    }
