import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import killing
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_folders import picture, sample, uid_of, write_pool, write_tar
from waiting import LONG
from webdataset.tariterators import group_by_keys, tar_file_iterator

from harness import executor, reshard, shard_writer, uid
from harness.blur import blur, blurred_image
from harness.errors import ArtifactError, ConfigError, InfraError, StageError
from harness.images import decode
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.pool.union import unite
from harness.records import read_record
from harness.reshard import ReshardedPool
from harness.subset import Subset
from harness.tars import Reader, index_tar, key_of, read_sample

ONE = executor.local(1)


@pytest.fixture
def sealed(tmp_path: Path) -> SealedPool:
    return seal(str(write_pool(tmp_path / "pool")), executor=ONE)


def subset_of(numbers: dict[tuple[int, int], int]) -> Subset:
    """The subset with these (shard, number) so many times each."""
    return Subset.of(uid.from_hex([uid_of(n) for n in numbers]), np.array(list(numbers.values())))


def contents(pool: ReshardedPool) -> list[tuple[str, str, bytes, str]]:
    """Key, uid, image and caption of every written sample."""
    found = []
    for s, path in enumerate(pool.shards):
        with Reader(path) as reader:
            for entry in pool.index(s):
                image, caption = read_sample(reader, entry)
                found.append((key_of(reader, entry), uid.to_hex(pool.index(s)["uid"])[0] and
                              f"{entry['uid']['f0']:016x}{entry['uid']['f1']:016x}", image, caption))  # fmt: skip
    return found


def test_samples_in_pool_order_byte_for_byte(sealed: SealedPool, tmp_path: Path) -> None:
    chosen = {(2, 1): 1, (0, 3): 1, (0, 4): 1, (0, 7): 1}
    done = reshard.reshard(sealed, subset_of(chosen), out=tmp_path / "out", executor=ONE)
    assert contents(done) == [
        (f"{s:05d}{n:04d}", uid_of((s, n)), picture(s * 1000 + n), f"caption {n} of shard {s} é")
        for s, n in sorted(chosen)
    ]
    assert done.rows.tolist() == [3, 4, 7, 17]
    assert done.borders.tolist() == [0, 4]
    with tarfile.open(done.shards[0]) as tar:
        assert len(tar.getnames()) == 12
    samples, faults = index_tar(done.shards[0])
    assert faults == []
    assert (samples == done.index(0)).all()
    payload = read_record(tmp_path / "out" / "shards.json", "shards").payload
    assert (payload["requested"], payload["samples"], payload["distinct"], payload["missing"]) == (4, 4, 4, 0)


def test_copies_have_keys_of_their_own(sealed: SealedPool, tmp_path: Path) -> None:
    done = reshard.reshard(sealed, subset_of({(0, 1): 3, (0, 2): 1, (1, 5): 2}), out=tmp_path / "out", executor=ONE)
    assert [key for key, *_ in contents(done)] == [
        "000000001", "000000001-1", "000000001-2", "000000002", "000010005", "000010005-1",
    ]  # fmt: skip
    assert len({(image, caption) for _, _, image, caption in contents(done)}) == 3
    assert done.rows.tolist() == [1, 1, 1, 2, 13, 13]
    # The first of a sample's copies is found by its pool row.
    assert np.searchsorted(done.rows, [1, 2, 13]).tolist() == [0, 3, 4]
    assert (index_tar(done.shards[0])[0] == done.index(0)).all()
    ledger = np.load(tmp_path / "out" / "ledger.npy")
    assert ledger["requested"].tolist() == ledger["written"].tolist()
    assert sorted(ledger["written"].tolist()) == [1, 2, 3]


def test_it_says_what_it_was_made_from(sealed: SealedPool, tmp_path: Path) -> None:
    there = subset_of({(0, 1): 2, (2, 2): 1})
    asked = Subset.of(np.concatenate([there.uids, uid.from_hex(["f" * 32])]))
    done = reshard.reshard(sealed, asked, out=tmp_path / "out", executor=ONE, intersect=True)
    for subset in (asked, there):
        done.require_made_from(sealed, subset)
    with pytest.raises(ConfigError, match=r"/out: holds the tars of another subset than"):
        done.require_made_from(sealed, subset_of({(0, 1): 1, (2, 2): 1}))


def test_webdataset_reads_it(sealed: SealedPool, tmp_path: Path) -> None:
    done = reshard.reshard(sealed, subset_of({(0, 1): 2, (2, 2): 1}), out=tmp_path / "out", executor=ONE)
    with open(done.shards[0], "rb") as file:
        read = list(group_by_keys({**member, "__url__": file.name} for member in tar_file_iterator(file)))
    assert [one["__key__"] for one in read] == ["000000001", "000000001-1", "000020002"]
    assert read[2]["jpg"] == picture(2002)
    assert json.loads(read[1]["json"])["uid"] == uid_of((0, 1))


def test_limits_of_a_shard(sealed: SealedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = subset_of({(s, n): 1 + (n == 2) for s in range(3) for n in range(8)})
    whole = reshard.reshard(sealed, everything, out=tmp_path / "whole", executor=ONE)
    monkeypatch.setattr(reshard, "MAX_SAMPLES", 5)
    many = reshard.reshard(sealed, everything, out=tmp_path / "many", executor=executor.local(2))
    assert np.diff(many.borders).tolist() == [5, 5, 5, 5, 5, 2]
    assert contents(many) == contents(whole)
    assert (many.rows == whole.rows).all()
    monkeypatch.setattr(reshard, "MAX_BYTES", 9000)
    small = reshard.reshard(sealed, everything, out=tmp_path / "small", executor=ONE)
    assert contents(small) == contents(whole)
    assert all(sum(i["end"] - i["start"]) <= 9000 or len(i) == 1 for i in map(small.index, range(len(small.shards))))
    monkeypatch.setattr(reshard, "MAX_BYTES", 10)
    single = reshard.reshard(sealed, everything, out=tmp_path / "single", executor=ONE)
    assert len(single.shards) == len(single.rows) == 27


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(0, 4), min_size=24, max_size=24).filter(any), limit=st.integers(1, 9))
def test_any_multiset(
    sealed: SealedPool, tmp_path_factory: pytest.TempPathFactory, counts: list[int], limit: int
) -> None:
    wanted = {divmod(i, 8): count for i, count in enumerate(counts) if count}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reshard, "MAX_SAMPLES", limit)
        done = reshard.reshard(sealed, subset_of(wanted), out=tmp_path_factory.mktemp("out"), executor=ONE)
    assert [name for _, name, *_ in contents(done)] == [uid_of(n) for n, c in sorted(wanted.items()) for _ in range(c)]
    assert len({key for key, *_ in contents(done)}) == sum(counts)
    assert (np.diff(done.borders) <= limit).all()
    assert done.rows.tolist() == [row for row, count in enumerate(counts) for _ in range(count)]


def test_done_once(sealed: SealedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subset = subset_of({(0, 1): 1, (2, 2): 1})
    first = reshard.reshard(sealed, subset, out=tmp_path / "out", executor=ONE)
    monkeypatch.setattr(reshard, "write_shard", None)
    assert reshard.reshard(sealed, subset, out=tmp_path / "out", executor=ONE).digest == first.digest


def test_interrupted_goes_on(sealed: SealedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reshard, "MAX_SAMPLES", 4)
    subset = subset_of({(s, n): 1 for s in range(3) for n in range(8)})
    undisturbed = reshard.reshard(sealed, subset, out=tmp_path / "a", executor=ONE)
    real = shard_writer._copy_piece
    calls: list[str] = []

    def dies(piece: shard_writer.Piece, job: shard_writer.Writing, copier: object) -> object:
        calls.append(job.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(piece, job, copier)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_writer, "_copy_piece", dies)
    with pytest.raises(KeyboardInterrupt):
        reshard.reshard(sealed, subset, out=tmp_path / "b", executor=ONE)
    with pytest.raises(ArtifactError, match=r"shards\.json"):
        ReshardedPool.open(tmp_path / "b")
    resumed = reshard.reshard(sealed, subset, out=tmp_path / "b", executor=ONE)
    assert resumed.digest == undisturbed.digest
    assert calls.count("00000000") == 1
    assert contents(resumed) == contents(undisturbed)
    # A tar that was damaged afterwards is written again.
    os.truncate(resumed.shards[1], 700)
    assert contents(reshard.reshard(sealed, subset, out=tmp_path / "b", executor=ONE)) == contents(undisturbed)


def test_another_reshard_in_the_folder_is_refused(sealed: SealedPool, tmp_path: Path) -> None:
    first = reshard.reshard(sealed, subset_of({(0, 1): 1}), out=tmp_path / "out", executor=ONE)
    with pytest.raises(ConfigError, match="holds the tars of another subset; choose another folder"):
        reshard.reshard(sealed, subset_of({(0, 2): 1}), out=tmp_path / "out", executor=ONE)
    with pytest.raises(ConfigError, match=r"another reshard\.blur"):
        reshard.reshard(sealed, subset_of({(0, 1): 1}), out=tmp_path / "out", executor=ONE, blur=True)
    assert ReshardedPool.open(tmp_path / "out").digest == first.digest


def test_missing_uids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(0), sample(1, image=b"x"), sample(2)])
    sealed = seal(str(tmp_path / "pool"), executor=ONE)
    unusable = subset_of({(0, 0): 2, (0, 1): 3})
    with pytest.raises(ArtifactError, match=r"1 of its 2 distinct uids .* \(1 left out by the seal, 0 never there\)"):
        reshard.reshard(sealed, unusable, out=tmp_path / "a", executor=ONE)
    done = reshard.reshard(sealed, unusable, out=tmp_path / "a", executor=ONE, intersect=True)
    assert "(1 left out by the seal, 0 never there); 3 of 5 samples are lost" in capsys.readouterr().err
    payload = read_record(tmp_path / "a" / "shards.json", "shards").payload
    assert (payload["requested"], payload["samples"], payload["missing"]) == (5, 2, 3)
    assert len(done.rows) == 2
    strangers = subset_of({(0, 0): 1, (5, 5): 1})
    with pytest.raises(ArtifactError, match=f"0 left out .* the first is {uid_of((5, 5))}; with reshard.intersect"):
        reshard.reshard(sealed, strangers, out=tmp_path / "b", executor=ONE)
    assert len(reshard.reshard(sealed, strangers, out=tmp_path / "b", executor=ONE, intersect=True).rows) == 1
    with pytest.raises(StageError, match="the pool holds none of its uids"):
        reshard.reshard(sealed, subset_of({(5, 5): 1}), out=tmp_path / "c", executor=ONE, intersect=True)


def test_ledger_that_does_not_add_up(sealed: SealedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = reshard.write_shard

    def loses_one(job: shard_writer.Writing) -> tuple[int, str]:
        result = real(job)
        np.save(job.index, np.load(job.index)[:-1])
        return result

    monkeypatch.setattr(reshard, "write_shard", loses_one)
    with pytest.raises(StageError, match=f"does not add up for 1 uids .*{uid_of((2, 2))}"):
        reshard.reshard(sealed, subset_of({(0, 1): 1, (2, 2): 1}), out=tmp_path / "out", executor=ONE)
    assert not (tmp_path / "out" / "shards.json").exists()


def test_pool_that_changed(sealed: SealedPool, tmp_path: Path) -> None:
    os.truncate(sealed.shards[2], 1000)
    with pytest.raises(ArtifactError, match=r"00000002\.tar: ends before byte"):
        reshard.reshard(sealed, subset_of({(2, 2): 1}), out=tmp_path / "out", executor=ONE)


def test_full_disk(sealed: SealedPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(InfraError, match=r"00000000\.tar: the disk is full"):
        reshard.reshard(sealed, subset_of({(0, 1): 1}), out=tmp_path / "out", executor=ONE)
    assert list((tmp_path / "out").glob("*.tar")) == []


def test_url(sealed: SealedPool, tmp_path: Path) -> None:
    subset = subset_of({(0, 1): 2, (2, 2): 1})
    here = reshard.reshard(sealed, subset, out=tmp_path / "here", executor=ONE)
    with pytest.raises(ConfigError, match="give index_dir=DIR"):
        reshard.reshard(sealed, subset, out=f"local://{tmp_path}/far", executor=ONE)
    far = reshard.reshard(sealed, subset, out=f"local://{tmp_path}/far", index_dir=tmp_path / "index", executor=ONE)
    assert far.digest == here.digest
    assert far.shards == (f"local://{tmp_path}/far/00000000.tar",)
    assert contents(far) == contents(here)


def test_blur(tmp_path: Path) -> None:
    boxes = [[0.2, 0.1, 0.8, 0.7]]
    with_face = sample(1, image=picture(1, size=64), face_bboxes=boxes)
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [sample(0), with_face, sample(2)])
    sealed = seal(str(tmp_path / "pool"), executor=ONE)
    subset = subset_of({(0, 0): 1, (0, 1): 2, (0, 2): 1})
    done = reshard.reshard(sealed, subset, out=tmp_path / "out", executor=ONE, blur=True)
    plain, face, copy, _ = contents(done)
    assert plain[2] == picture(0)
    assert face[2] == copy[2] == blurred_image(picture(1, size=64), boxes)
    with tarfile.open(done.shards[0]) as tar:
        assert [name for name in tar.getnames() if "1" in name and not name.endswith(("txt", "json"))] == [
            "000000001.webp", "000000001-1.webp",
        ]  # fmt: skip
    before, after = (np.asarray(decode(image), dtype=np.float32) for image in (picture(1, size=64), face[2]))
    inside = np.s_[12:38, 18:46]
    assert after[inside].std() < before[inside].std() / 2
    assert np.abs(after[-6:] - before[-6:]).mean() < 16  # WebP only
    assert (index_tar(done.shards[0])[0] == done.index(0)).all()


def test_samples_without_json(tmp_path: Path) -> None:
    """Copies and blurring leave pairs without json as they are."""
    write_tar(tmp_path / "pool" / "shards" / "0.tar", [{"1.jpg": picture(1), "1.txt": b"one"}])
    sealed = seal(str(tmp_path / "pool"), executor=ONE, uids="content")
    twice = Subset.of(np.asarray(sealed.uids), np.array([2]))
    done = reshard.reshard(sealed, twice, out=tmp_path / "out", executor=ONE, blur=True)
    assert [(key, image, caption) for key, _, image, caption in contents(done)] == [
        ("1", picture(1), "one"), ("1-1", picture(1), "one"),
    ]  # fmt: skip


def test_blur_of_nothing_and_over_the_edge() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    assert blur(pixels, []) is pixels
    assert blur(pixels, [[0.5, 0.5, 0.5, 0.5]]) is pixels
    corner = blur(pixels, [[0.0, 0.0, 0.3, 0.4]])
    assert corner[:10, :10].std() < pixels[:10, :10].std() / 2
    assert (corner[-4:, -4:] == pixels[-4:, -4:]).all()
    assert blur(pixels, [[-0.5, -0.5, 1.5, 1.5]]).shape == pixels.shape


def test_command(sealed: SealedPool, tmp_path: Path) -> None:
    subset_of({(0, 1): 2, (2, 2): 1}).save(tmp_path / "uids.npy")

    def harness(*more: str) -> "subprocess.CompletedProcess[str]":
        arguments = [f"pool.path={sealed.path}", f"subset={tmp_path}/uids.npy", f"out={tmp_path}/out", *more]
        return subprocess.run(
            [sys.executable, "-m", "harness.reshard", *arguments], capture_output=True, text=True, timeout=LONG
        )

    done = harness("workers=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 samples in 1 shards in ")
    failed = harness("reshard.blurr=true")
    assert failed.returncode == 2
    assert "reshard.blur" in failed.stderr


def test_union(tmp_path: Path) -> None:
    """The command takes the sealed files of a byod run, whose sources lie elsewhere."""
    one = seal(str(write_pool(tmp_path / "one")), executor=ONE)
    write_tar(tmp_path / "two" / "shards" / "0.tar", [sample(n, shard=70) for n in range(3)])
    two = seal(str(tmp_path / "two"), executor=ONE)
    unite({"pool": one, "byod-1": two}, tmp_path / "both")
    subset_of({(0, 1): 1, (70, 2): 2}).save(tmp_path / "uids.npy")

    def command(out: str) -> None:
        places = [f"pool.path={tmp_path}/both", f"subset={tmp_path}/uids.npy", f"out={tmp_path}/{out}"]
        reshard.command([*places, "workers=1"])

    command("out")
    found = contents(ReshardedPool.open(tmp_path / "out"))
    assert [(key, named) for key, named, _, _ in found] == [
        ("000000001", uid_of((0, 1))), ("000700002", uid_of((70, 2))), ("000700002-1", uid_of((70, 2)))
    ]  # fmt: skip

    write_tar(tmp_path / "two" / "shards" / "0.tar", [sample(n, shard=70) for n in range(2)])
    seal(str(tmp_path / "two"), executor=ONE)
    with pytest.raises(ArtifactError, match="two was sealed anew"):
        command("again")


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", shards=12, samples=60)
    subset_of({(s, n): 1 + n % 2 for s in range(12) for n in range(60)}).save(tmp_path / "uids.npy")
    imports = (
        "from harness import executor, reshard\nfrom harness.pool.seal import seal\nfrom harness.subset import Subset\n"
        "reshard.MAX_SAMPLES = 40; e = executor.local(1)"
    )

    def run(out: Path, kill_after: float = 0.0) -> tuple[str, float] | None:
        work = (
            f"print(reshard.reshard(seal('{tmp_path}/pool', seal_dir='{out}/seal', executor=e), "
            f"Subset.load('{tmp_path}/uids.npy'), out='{out}', executor=e).digest)"
        )
        return killing.run(imports, work, kill_after=kill_after)

    whole = run(tmp_path / "a")
    assert whole is not None
    rng = np.random.default_rng(int(time.time()))
    assert run(tmp_path / "b", whole[1] * 0.3) is None  # nothing is done yet, so the first is killed for certain
    for _ in range(40):
        found = run(tmp_path / "b", whole[1] * rng.uniform(0.05, 1.2))
        if found is not None:
            break
    else:
        found = run(tmp_path / "b")
    assert found is not None
    assert found[0] == whole[0]
