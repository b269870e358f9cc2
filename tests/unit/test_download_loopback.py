"""Whole downloads from a hub and an image server on loopback."""

import hashlib
import importlib.util
import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import (
    COMMIT,
    FAULTS,
    GOOD,
    Web,
    environment,
    fill_hub,
    harness,
    large_picture,
    metadata,
    needs_img2dataset,
)
from PIL import Image
from pool_folders import uid_of
from waiting import LONG, until

from harness import executor, select, uid
from harness.crawl import ROBOTS, read_counts
from harness.pool.left_out import LEFT_OUT
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
from harness.records import read_record
from harness.reshard import reshard
from harness.subset import Subset
from harness.tars import Reader, read_sample
from harness.train import __main__ as train

needs_spark = pytest.mark.skipif(
    importlib.util.find_spec("pyspark") is None or shutil.which("java") is None, reason="needs pyspark and java"
)

REALPOOL = Path(__file__).parents[1] / "data" / "realpool_sample"


def blur_of(sealed: SealedPool, number: int) -> float:
    """How far pixels of a downloaded picture are from the original's, in the box where a face may be."""
    shard, row = 0, uid.to_hex(sealed.index(0)["uid"]).index(uid_of(number))
    with Reader(sealed.shards[shard]) as reader:
        got = Image.open(io.BytesIO(read_sample(reader, sealed.index(shard)[row])[0])).convert("RGB")
    original = Image.open(io.BytesIO(large_picture(number))).convert("RGB").resize(got.size, Image.Resampling.BOX)
    box = (got.width // 10, got.height // 10, got.width * 4 // 10, got.height // 2)
    difference = np.asarray(got.crop(box), float) - np.asarray(original.crop(box), float)
    return float(np.abs(difference).mean())


@pytest.mark.slow
def test_metadata_and_features(web: tuple[str, type[Web]], tmp_path: Path) -> None:
    address, handler = web
    fill_hub(address, handler, tmp_path)
    folder = tmp_path / "pool"
    done = harness(address, folder, "scale=small", "skip_images=true")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "metadata").iterdir()) == [
        "a" * 32 + ".parquet",
        "b" * 32 + ".parquet",
    ]
    assert read_record(folder / "source.json", "source").payload["revision"] == COMMIT
    handler.asked.clear()
    assert harness(address, folder, "scale=small", "skip_images=true", "features=true").returncode == 0
    assert (folder / "metadata" / ("a" * 32 + ".npz")).read_bytes() == handler.files["a" * 32 + ".npz"]
    assert not any(path.startswith("/api") or path.endswith(".parquet") for path in handler.asked)
    other = harness(address, folder, "scale=small", "skip_images=true", "revision=" + "0" * 40)
    assert other.returncode == 2
    assert "revision: " in other.stderr
    part = tmp_path / "part"
    for _ in range(2):  # a branch's name is resolved once, and holds for the same command again
        named = harness(address, part, "scale=small", "skip_images=true", "part=2/2", "revision=main")
        assert named.returncode == 0, named.stderr
    assert [path.name for path in (part / "metadata").iterdir()] == ["b" * 32 + ".parquet"]


@pytest.mark.slow
def test_hub_that_fails(web: tuple[str, type[Web]], tmp_path: Path) -> None:
    address, _ = web
    missing = harness(address, tmp_path / "pool", "scale=medium", "skip_images=true")
    assert missing.returncode in (2, 7)
    assert "datacomp_medium" in missing.stderr
    silent = harness("http://127.0.0.1:9", tmp_path / "pool", "scale=small", "skip_images=true")
    assert silent.returncode == 7
    assert "the hub does not answer for mlfoundations/datacomp_small" in silent.stderr
    assert "Traceback" not in silent.stderr


@needs_img2dataset
@pytest.mark.slow
def test_a_download_with_all_that_servers_do_wrong(web: tuple[str, type[Web]], tmp_path: Path) -> None:
    address, handler = web
    fill_hub(address, handler, tmp_path)
    folder = tmp_path / "pool"
    done = harness(address, folder, "scale=small", "timeout=3")  # thrice, for a server that stalls
    assert done.returncode == 0, done.stderr + (folder / "shards" / ".img2dataset.log").read_text()[-2000:]
    record = read_record(folder / "download.json", "download")
    assert record.payload["links"] == 60
    assert record.payload["pictures"] == 60 - 2 * len(FAULTS)
    assert "40 of 60 links gave a picture (66.7%)" in done.stderr
    assert sum(record.payload["failures"].values()) == 20
    assert {"HTTP Error 404: Not Found", "HTTP Error 403: Forbidden"} < set(record.payload["failures"])

    one = executor.local(1)
    sealed = seal(str(folder), executor=one)
    expected = {uid_of(100 * part + n) for part in range(2) for n in GOOD}
    assert set(uid.to_hex(sealed.uids)) == expected
    assert LEFT_OUT.count(sealed.seal_dir) == 0
    assert blur_of(sealed, 0) > 2 * blur_of(sealed, 1)  # every fourth picture has a face
    assert read_record(folder / "pool.json", "pool").provenance["download"]["pictures"] == 40
    done_tars = reshard(sealed, Subset.of(sealed.uids[:9].copy()), out=tmp_path / "out", executor=one)
    assert len(done_tars.rows) == 9

    # All servers but those that refuse are well again: a retry brings the rest.
    handler.healed = set(FAULTS) - {"robots"}
    again = harness(address, folder, "scale=small", "retry_failed=true")
    assert again.returncode == 0, again.stderr
    assert read_counts(folder / "shards" / "retry_1").successes == 18
    record = read_record(folder / "download.json", "download")
    assert (record.payload["links"], record.payload["pictures"]) == (60, 58)
    assert [(ROBOTS in message, n) for message, n in record.payload["failures"].items()] == [(True, 2)]
    assert len(seal(str(folder), executor=one)) == 58
    assert not [path for path in handler.asked if path.startswith("/picture/robots")][2 * 3 :]
    handler.asked.clear()
    plain = harness(address, folder, "scale=small", "features=true")
    assert "58 of 60 links gave a picture (96.7%)" in plain.stderr
    assert read_record(folder / "download.json", "download").digest == record.digest
    assert all(path.endswith(".npz") for path in handler.asked)


@needs_img2dataset
@pytest.mark.slow
@pytest.mark.parametrize("distributor", ["ray", pytest.param("pyspark", marks=needs_spark)])
def test_on_a_cluster_of_one_machine(web: tuple[str, type[Web]], tmp_path: Path, distributor: str) -> None:
    address, _ = web
    (tmp_path / "list").mkdir()
    for number in range(2):
        table = metadata(address, ["good", "404", "good"], first=3 * number)
        pq.write_table(table, tmp_path / "list" / f"{number}.parquet")
    folder = tmp_path / "pool"
    done = harness(address, folder, f"metadata_dir={tmp_path}/list", f"distributor={distributor}")
    assert done.returncode == 0, done.stderr + (folder / "shards" / ".img2dataset.log").read_text()[-2000:]
    assert "4 of 6 links gave a picture" in done.stderr
    sealed = seal(str(folder), executor=executor.local(1))
    assert set(uid.to_hex(sealed.uids)) == {uid_of(n) for n in (0, 2, 3, 5)}


@needs_img2dataset
@pytest.mark.slow
def test_any_list_of_links_in_parts(web: tuple[str, type[Web]], tmp_path: Path) -> None:
    address, _ = web
    table = metadata(address, ["good"] * 10).drop_columns(["uid", "face_bboxes"])
    pq.write_table(table, tmp_path / "pairs.parquet")
    done = harness(address, tmp_path / "pool", f"url_list={tmp_path}/pairs.parquet")
    assert done.returncode == 0, done.stderr
    sealed = seal(str(tmp_path / "pool"), executor=executor.local(1))
    written = pq.read_table(tmp_path / "pool" / "metadata" / "pairs.parquet")
    assert set(uid.to_hex(sealed.uids)) == set(written["uid"].to_pylist())
    from_folder = harness(address, tmp_path / "copy", f"metadata_dir={tmp_path}/pool/metadata", "part=1/1")
    assert from_folder.returncode == 0, from_folder.stderr
    copy = seal(str(tmp_path / "copy"), executor=executor.local(1))
    assert copy.names == ("part_1_of_1/00000000",)
    assert set(uid.to_hex(copy.uids)) == set(uid.to_hex(sealed.uids))


@needs_img2dataset
@pytest.mark.slow
def test_a_whole_round_with_real_pictures(web: tuple[str, type[Web]], tmp_path: Path) -> None:
    """Download, interrupted and resumed, seal, select, reshard and train; what is done is not done twice."""
    address, handler = web
    pictures, tables = {}, []
    sealed = seal(str(REALPOOL), seal_dir=str(tmp_path / "sample"), executor=executor.local(1))
    for shard, path in enumerate(sealed.shards):
        with Reader(path) as reader:
            contents = [read_sample(reader, entry)[0] for entry in sealed.index(shard)]
        names = [f"/real/{name}" for name in uid.to_hex(sealed.index(shard)["uid"])]
        pictures |= dict(zip(names, contents, strict=True))
        table = pq.read_table(REALPOOL / "metadata" / f"{shard:08d}.parquet").drop_columns(["url", "sha256"])
        assert table["uid"].to_pylist() == [name.removeprefix("/real/") for name in names]
        sums = [hashlib.sha256(content).hexdigest() for content in contents]
        if shard == 1:
            pictures[names[3]] = contents[4]  # the page shows another picture today
        table = table.append_column("url", pa.array([address + name for name in names]))
        tables.append(table.append_column("sha256", pa.array(sums)))
    handler.stored = pictures
    (tmp_path / "list").mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, tmp_path / "list" / f"{number}.parquet")

    folder = tmp_path / "pool"
    handler.most = 60  # the first file of 50, and the second is begun
    command = [sys.executable, "-m", "harness.download", f"data_dir={folder}", f"metadata_dir={tmp_path}/list",
               "processes=1", "threads=2", "per_shard=50", "timeout=600"]  # fmt: skip
    first = subprocess.Popen(command, env=environment(address, tmp_path / "home"), stderr=subprocess.DEVNULL)
    until(lambda: list((folder / "shards").glob("*_stats.json")) or first.poll() is not None)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=LONG) == 130
    assert not (folder / "download.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("*_stats.json")}
    assert 0 < len(finished) < 4
    handler.most = float("inf")
    done = subprocess.run(command, env=environment(address, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "200 of 200 links gave a picture (100.0%)" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished

    one = executor.local(1)
    got = seal(str(folder), executor=one, sha256=True)
    assert len(got.shards) == 4
    assert [row[2:] for row in LEFT_OUT.rows(got.seal_dir)] == [
        (tables[1]["uid"][3].as_py(), "sha256 is not the metadata's")
    ]
    for _ in range(2):
        select.command([f"pool.path={folder}", "scale=tiny", "method=random_subset", "method.fraction=0.5",
                        f"out={tmp_path}/uids.npy"])  # fmt: skip
    subset = Subset.load(tmp_path / "uids.npy")
    assert len(subset) == 99
    for _ in range(2):
        kept = reshard(got, subset, out=tmp_path / "kept", executor=one)
        assert len(kept.rows) == 99
        train.command([
            "scale=tiny", f"pool.path={folder}", f"subset={tmp_path}/uids.npy", f"shards={tmp_path}/kept",
            f"out={tmp_path}/train", "scale.samples_seen=192", "scale.batch_size=64", "scale.warmup_steps=1",
            "train.workers=0", "train.device=cpu",
        ])  # fmt: skip
    record = read_record(tmp_path / "train" / "train.json", "train")
    assert record.payload["samples_seen"] == 192
    assert len((tmp_path / "train" / "log.jsonl").read_text().splitlines()) == 3
