"""What a sealed pool says about its download, wherever it lies and whoever downloaded it."""

import json
import shutil
from pathlib import Path

import fsspec
from pool_folders import sample, write_pool, write_tar

from harness import executor
from harness.pool.seal import seal
from harness.provenance import provenance
from harness.records import Record, read_record, write_record

ONE = executor.local(1)


def told(where: Path) -> object:
    return read_record(where / "pool.json", "pool").provenance["download"]


def test_the_records_of_a_download_go_with_the_pool_to_a_store(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", shards=1)
    payload = {"links": 40, "pictures": 10, "img2dataset": {"image_size": 512}}
    for part in (1, 2):
        record = Record(kind="download", payload=payload | {"part": f"{part}/2"}, provenance=provenance())
        write_record(pool / f"download_part_{part}_of_2.json", record)
    (pool / "download_log.json").write_text("somebody's own")
    seal(str(pool), executor=ONE)
    store = fsspec.filesystem("memory")
    store.put(str(pool), "/told", recursive=True)
    try:
        seal("memory://told", seal_dir=str(tmp_path / "seal"), executor=ONE)
    finally:
        store.rm("/told", recursive=True)
    found = told(tmp_path / "seal")
    assert found == told(pool)
    assert (found["links"], found["pictures"], found["rate"]) == (80, 20, 0.25)
    assert [part["part"] for part in found["parts"]] == ["1/2", "2/2"]
    for part in found["parts"]:
        assert "img2dataset" in part["packages"]
        assert part["img2dataset"] == {"image_size": 512}


def test_tars_of_another_downloader_are_counted_by_their_stats(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", shards=2)
    shards = pool / "shards"
    for number in range(2):
        (shards / f"{number:08d}_stats.json").write_text(json.dumps({"count": 10, "successes": 8}))
    write_tar(shards / "retry_1" / "00000000.tar", [sample(0, shard=9)])
    (shards / "retry_1" / "00000000_stats.json").write_text(json.dumps({"count": 4, "successes": 1}))
    seal(str(pool), executor=ONE)
    assert told(pool) == {"links": 20, "pictures": 17, "rate": 0.85, "parts": []}
    (shards / "00000001_stats.json").write_text('{"count": 10')
    (shards / "00000000_stats.json").unlink()
    shutil.rmtree(shards / "retry_1")
    seal(str(pool), executor=ONE)
    assert told(pool) is None
