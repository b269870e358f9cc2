import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from loopback import (
    needs_img2dataset,
)
from pool_folders import finished_shard
from waiting import running, until

from harness import crawl, download, files, progress
from harness.crawl import read_counts
from harness.errors import ConfigError, InfraError


def test_settings_of_the_reference() -> None:
    arguments = crawl.CrawlSettings().arguments(Path("urls"), Path("out"), ["uid", "url", "text", "face_bboxes"])
    expected = {
        "image_size": 512, "resize_mode": "keep_ratio_largest", "resize_only_if_bigger": True, "encode_quality": 95,
        "number_sample_per_shard": 10_000, "oom_shard_count": 8, "retries": 2, "timeout": 10, "processes_count": 16,
        "thread_count": 128, "bbox_col": "face_bboxes", "save_additional_columns": ["uid"],
        "output_format": "webdataset",
    }  # fmt: skip
    assert expected.items() <= arguments.items()
    assert crawl.CrawlSettings(blur=False).arguments(Path("u"), Path("o"), ["face_bboxes"])["bbox_col"] is None


def test_img2dataset_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"pip install 'datacomp-harness\[download\]'"):
        crawl.crawl(tmp_path, tmp_path / "out", links={"a.parquet": 1}, columns=[], settings=crawl.CrawlSettings())


def test_img2dataset_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.47.0")
    monkeypatch.setattr(crawl.sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match=r"img2dataset ended after 0 of 7 links .* run the same command again"):
        crawl.crawl(tmp_path, tmp_path / "out", links={"a.parquet": 7}, columns=[], settings=crawl.CrawlSettings())


def test_img2dataset_that_a_full_disk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 30, 100])
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 50, 1 << 50, next(free)))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.47.0")
    monkeypatch.setattr(crawl.sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match=r"0\.0 GB free; make room or choose another"):
        crawl.crawl(tmp_path, tmp_path / "out", links={"a.parquet": 7}, columns=[], settings=crawl.CrawlSettings())


@needs_img2dataset
def test_every_distributor_of_img2dataset_can_be_chosen() -> None:
    (package,) = importlib.util.find_spec("img2dataset").submodule_search_locations
    there = re.findall(r"def (\w+)_distributor\(", Path(package, "distributor.py").read_text())
    assert set(there) == set(typing.get_args(download.Settings.model_fields["distributor"].annotation))


@pytest.mark.parametrize(("distributor", "install"), [("ray", r"datacomp-harness\[ray\]"), ("pyspark", "pyspark")])
def test_a_distributor_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distributor: str, install: str
) -> None:
    def version(name: str) -> str:
        if name == "img2dataset":
            return "1.47.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    settings = crawl.CrawlSettings(distributor=distributor)
    with pytest.raises(ConfigError, match=f"distributor={distributor} needs {distributor}: pip install '{install}'"):
        crawl.crawl(tmp_path, tmp_path / "out", links={"a.parquet": 1}, columns=[], settings=settings)


def test_a_finished_crawl_does_not_start_img2dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.47.0")
    monkeypatch.setattr(crawl.subprocess, "Popen", None)
    for number in range(2):
        finished_shard(tmp_path / "out", number, [(number, "failed_to_download", "timed out")])
    links, settings = {"a.parquet": 2}, crawl.CrawlSettings()
    assert crawl.crawl(tmp_path, tmp_path / "out", links=links, columns=[], settings=settings).tried == 2
    (tmp_path / "out" / "00000001.tar").unlink()
    with pytest.raises(TypeError):  # one is missing again: it is started
        crawl.crawl(tmp_path, tmp_path / "out", links=links, columns=[], settings=settings)


def test_shards_that_only_seem_finished_are_done_again(tmp_path: Path) -> None:
    contents = {
        "0": '{"count": 3, "successes": 2}',
        "1": '{"cou',
        "2": "",
        "3": '{"count": 3, "successes": 2}',
        "4": "[]",
        "5": '{"count": 3}',
    }
    for number, content in contents.items():
        (tmp_path / f"0000000{number}_stats.json").write_text(content)
        if number != "3":
            (tmp_path / f"0000000{number}.tar").write_bytes(b"")
    assert crawl.read_counts(tmp_path).tried == 3
    crawl.forget_unfinished(tmp_path)
    assert [path.name for path in tmp_path.glob("*.json")] == ["00000000_stats.json"]


def test_shards_begun_with_other_links_or_settings(tmp_path: Path) -> None:
    """A shard is known by its number: with other links, other rows would count as done and be lost."""
    plan = {"links": {"b.parquet": 9}, "number_sample_per_shard": 12, "bbox_col": "face_bboxes"}
    crawl.begin(tmp_path, plan)
    crawl.begin(tmp_path, plan)
    with pytest.raises(ConfigError, match="begun with other links, and would not fit"):
        crawl.begin(tmp_path, plan | {"links": {"a.parquet": 9, "b.parquet": 9}})
    with pytest.raises(ConfigError, match="begun with number_sample_per_shard=12, not 24"):
        crawl.begin(tmp_path, plan | {"number_sample_per_shard": 24})
    with pytest.raises(ConfigError, match=r"begun with bbox_col=face_bboxes, not None \(setting blur\)"):
        crawl.begin(tmp_path, plan | {"bbox_col": None})


def test_finished_shards_are_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def finish(number: int, messages: int) -> None:
        stats = {
            "count": 10,
            "successes": 8,
            "status_dict": {"success": 8, **{f"host {n}": 1 for n in range(messages)}},
        }
        (tmp_path / f"{number:08d}_stats.json").write_text(json.dumps(stats))
        (tmp_path / f"{number:08d}.tar").write_bytes(b"x" * 500)

    finish(0, 2)
    counts = read_counts(tmp_path)
    (tmp_path / "00000000_stats.json").write_text("no JSON any more")
    finish(1, 1)
    (tmp_path / "00000002_stats.json").write_text('{"count": 10')
    counts.add(tmp_path)
    assert (counts.tried, counts.successes, counts.size, counts.rate) == (20, 16, 1000, 0.8)
    assert counts.failures == {"host 0": 2, "host 1": 1}
    crawl.MOST_MESSAGES, before = 2, crawl.MOST_MESSAGES
    try:
        finish(3, 3)
        counts.add(tmp_path)
    finally:
        crawl.MOST_MESSAGES = before
    assert counts.failures == {"host 0": 3}
    assert counts.tried == 30


def test_progress_tells_share_rate_size_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    counts = crawl.CrawlCounts(tried=250, successes=200, size=3_000_000_000)
    with progress.Progress("download", total=1000, unit="images") as bar:
        crawl._show(bar, counts)
    said = capsys.readouterr().err
    assert re.search(r"download: 250 of 1,000 images, [\d,]+/s, [\d,]+ s left 80\.0% answered, 3\.0 GB", said), said


def test_img2dataset_ends_with_its_caller(tmp_path: Path) -> None:
    """However the caller ends: two that write the same tars would spoil them."""
    stand_in = "import os, pathlib, time\ndef download(**arguments):\n"
    stand_in += (
        "    pathlib.Path(arguments['output_folder'], 'pid').write_text(str(os.getpid()))\n    time.sleep(3600)\n"
    )
    (tmp_path / "img2dataset.py").write_text(stand_in)
    code = "import sys, pathlib; from harness import crawl; crawl._require = lambda name: '1'\n"
    code += "crawl.crawl(pathlib.Path('.'), pathlib.Path(sys.argv[1]), links={'a': 1}, columns=[],"
    code += " settings=crawl.CrawlSettings())"
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")],
                              env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
    pid = tmp_path / "out" / "pid"
    until(lambda: (pid.exists() and pid.read_text()) or caller.poll() is not None)
    assert caller.poll() is None
    caller.kill()
    caller.wait()
    until(lambda: not running(int(pid.read_text())), seconds=600)  # much less than it would sleep


def test_shards_that_are_finished_while_others_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look at the folder comes after img2dataset has ended, however long the one before it took."""
    stand_in = "import json, pathlib, time\ndef download(**arguments):\n"
    stand_in += "    folder = pathlib.Path(arguments['output_folder'])\n"
    stand_in += "    while not (folder / 'counting').exists():\n        time.sleep(0.01)\n"
    stand_in += "    (folder / '0.tar').write_bytes(b'')\n"
    stand_in += "    (folder / '0_stats.json').write_text(json.dumps({'count': 1, 'successes': 1}))\n"
    (tmp_path / "img2dataset.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(crawl, "_require", lambda _: "1")
    monkeypatch.setattr(crawl, "POLL_SECONDS", 0.01)
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(crawl.subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[0])

    def slow(folder: Path, suffix: str) -> list[str]:
        found = files.list_files(folder, suffix)
        if started:
            (folder / "counting").touch()
            started[0].wait()
        return found

    monkeypatch.setattr(crawl, "list_files", slow)
    found = crawl.crawl(tmp_path, tmp_path / "out", links={"a": 1}, columns=[], settings=crawl.CrawlSettings())
    assert found.successes == 1


def test_img2dataset_tidies_up_before_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = "import atexit\ndef download(**arguments):\n    atexit.register(print, 'tidied up')\n    print('done')\n"
    (tmp_path / "img2dataset.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(crawl, "_require", lambda _: "1")
    with pytest.raises(InfraError, match=r"ended after 0 of 1 links \(last line of .*: 'tidied up'\)"):
        crawl.crawl(tmp_path, tmp_path / "out", links={"a": 1}, columns=[], settings=crawl.CrawlSettings())
    assert (tmp_path / "out" / ".img2dataset.log").read_text() == "done\ntidied up\n"
