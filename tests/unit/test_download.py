"""A whole download from a hub and an image server on loopback, with everything that servers do wrong."""

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pool_folders import picture, uid_of

from harness import crawl, download, executor, files, select, uid
from harness.crawl import read_counts
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.pool.seal import seal
from harness.records import Record, read_record, write_record
from harness.reshard import reshard
from harness.subset import Subset
from harness.tars import Reader, read_sample
from harness.train import __main__ as train

needs_img2dataset = pytest.mark.skipif(importlib.util.find_spec("img2dataset") is None, reason="extra download")
COMMIT = "c0ffee" * 6 + "c0ff"
FAULTS = ("404", "403", "500", "html", "robots", "cut", "corrupt", "empty", "loop", "stall")
ODD = ("redirect", "trickle", "mislabelled")
"""What servers do that still gives a picture."""
GOOD = [*range(14), *range(24, 30)]
"""Of the 30 links of a file, those that give a picture."""
REALPOOL = Path(__file__).parents[1] / "data" / "realpool_sample"


class Web(BaseHTTPRequestHandler):
    """A hub and an image server in one."""

    files: dict[str, bytes]
    healed: set[str]
    asked: list[str]
    slow: float
    stored: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def _send(
        self, code: int, content: bytes, kind: str = "image/jpeg", size: int | None = None, **headers: str
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if size is None else size))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/datasets/mlfoundations/datacomp_small"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            about = {"id": "mlfoundations/datacomp_small", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(about).encode(), "application/json")
        elif "/resolve/" in path:
            content = self.files.get(path.partition(f"/resolve/{COMMIT}/")[2])
            if content is None:
                self._send(404, b"", X_Error_Code="EntryNotFound")
            else:
                self._send(200, content, "application/octet-stream", ETag=f'"{len(content)}"', X_Repo_Commit=COMMIT)
        elif path in self.stored:
            time.sleep(self.slow)
            self._send(200, self.stored[path])
        elif path.startswith("/picture/"):
            self._picture(path.split("/")[2], int(path.split("/")[3]))
        else:
            self._send(404, b"no such page", "text/html")

    def _picture(self, kind: str, number: int) -> None:
        good = large_picture(number)
        time.sleep(self.slow)
        if kind in self.healed:
            kind = "good"
        if kind in ("404", "403", "500"):
            self._send(int(kind), b"go away", "text/html")
        elif kind == "redirect":
            self._send(302, b"", Location=f"/picture/good/{number}")
        elif kind == "loop":
            self._send(302, b"", Location=self.path)
        elif kind == "empty":
            self._send(200, b"")
        elif kind == "stall":
            self._send(200, good[:300], size=len(good))
            time.sleep(2)
            self.close_connection = True
        elif kind == "trickle":
            self._send(200, b"", size=len(good))
            for start in range(0, len(good), 1 + len(good) // 5):
                time.sleep(0.05)
                self.wfile.write(good[start : start + 1 + len(good) // 5])
        elif kind == "mislabelled":
            self._send(200, good, "text/html")
        elif kind == "html":
            self._send(200, b"<html>this picture has moved</html>", "text/html")
        elif kind == "robots":
            self._send(200, good, X_Robots_Tag="noai")
        elif kind == "cut":
            self._send(200, good[:-300], size=len(good))
            self.close_connection = True
        elif kind == "corrupt":
            self._send(200, b"\xff\xd8\xff" + good[40:90])
        else:
            self._send(200, good)


def large_picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(number, size=12))).resize((700, 350)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def web() -> Iterator[tuple[str, type[Web]]]:
    handler = type("Handler", (Web,), {"files": {}, "healed": set(), "asked": [], "slow": 0.0, "stored": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()
    thread.join()


def metadata(address: str, kinds: list[str], *, first: int = 0) -> pa.Table:
    numbers = range(first, first + len(kinds))
    boxes = pa.array([[[0.1, 0.1, 0.4, 0.5]] if n % 4 == 0 else [] for n in numbers], pa.list_(pa.list_(pa.float64())))
    return pa.table({
        "uid": [uid_of(n) for n in numbers],
        "url": [f"{address}/picture/{kind}/{n}" for n, kind in zip(numbers, kinds, strict=True)],
        "text": [f"caption {n}" if n % 5 else None for n in numbers],
        "face_bboxes": boxes,
    })  # fmt: skip


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def environment(address: str, home: Path) -> dict[str, str]:
    hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return {**os.environ, **hub, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}


def harness(address: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "harness.download",
        f"data_dir={folder}",
        "processes=1",
        "threads=8",
        "per_shard=12",
        "timeout=1",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240,
                          env=environment(address, folder.parent / "home"))  # fmt: skip


def fill_hub(address: str, handler: type[Web], tmp_path: Path) -> None:
    mixed = [*["good"] * 14, *FAULTS, *ODD, *["good"] * 3]
    handler.files = {"README.md": b"a pool"}
    for part, stem in enumerate(("a" * 32, "b" * 32)):
        handler.files[f"{stem}.parquet"] = parquet(metadata(address, mixed, first=100 * part))
        np.savez(tmp_path / "x.npz", b32_img=np.zeros((30, 4), np.float16))
        handler.files[f"{stem}.npz"] = (tmp_path / "x.npz").read_bytes()


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
    assert harness(address, part, "scale=small", "skip_images=true", "part=2/2").returncode == 0
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
    done = harness(address, folder, "scale=small")
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
    assert sealed.left_out() == []
    assert read_record(folder / "pool.json", "pool").provenance["download"]["pictures"] == 40
    done_tars = reshard(sealed, Subset.of(sealed.uids[:9].copy()), out=tmp_path / "out", executor=one)
    assert len(done_tars.rows) == 9

    # All servers but those that refuse are well again: a retry brings the rest.
    handler.healed = set(FAULTS) - {"robots"}
    again = harness(address, folder, "scale=small", "retry_failed=true")
    assert again.returncode == 0, again.stderr
    assert read_counts(folder / "shards" / "retry_1").successes == 18
    assert len(seal(str(folder), executor=one)) == 58
    assert not [path for path in handler.asked if path.startswith("/picture/robots")][2 * 3 :]


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
    handler.slow = 0.15
    command = [sys.executable, "-m", "harness.download", f"data_dir={folder}", f"metadata_dir={tmp_path}/list",
               "processes=1", "threads=2", "per_shard=50"]  # fmt: skip
    first = subprocess.Popen(command, env=environment(address, tmp_path / "home"), stderr=subprocess.DEVNULL)
    while not list((folder / "shards").glob("*_stats.json")) and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    assert not (folder / "download.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("*_stats.json")}
    assert 0 < len(finished) < 4
    handler.slow = 0.0
    done = subprocess.run(command, env=environment(address, tmp_path / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "200 of 200 links gave a picture (100.0%)" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished

    one = executor.local(1)
    got = seal(str(folder), executor=one, sha256=True)
    assert len(got.shards) == 4
    assert [(row["uid"], row["reason"]) for row in got.left_out()] == [
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


def test_a_disk_that_is_too_small_is_seen_before_the_first_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(metadata("http://127.0.0.1:9", ["good"] * 4), tmp_path / "pairs.parquet")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 100_000))
    monkeypatch.setattr(download, "crawl", None)
    settings = download.Settings(data_dir=str(tmp_path / "pool"), url_list=str(tmp_path / "pairs.parquet"))
    with pytest.raises(InfraError, match=r"0\.0 GB free; make room or choose another"):
        download.download(settings)


def test_img2dataset_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"pip install 'datacomp-harness\[download\]'"):
        crawl.crawl(tmp_path, tmp_path / "out", rows=1, columns=[], settings=crawl.CrawlSettings())


def test_img2dataset_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.47.0")
    monkeypatch.setattr(crawl.sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match=r"img2dataset ended after 0 of 7 links .* run the same command again"):
        crawl.crawl(tmp_path, tmp_path / "out", rows=7, columns=[], settings=crawl.CrawlSettings())


def test_shards_that_only_seem_finished_are_done_again(tmp_path: Path) -> None:
    contents = {
        "0": '{"count": 3, "successes": 2}',
        "1": '{"cou',
        "2": "",
        "3": '{"count": 3, "successes": 2}',
        "4": "[]",
    }
    for number, content in contents.items():
        (tmp_path / f"0000000{number}_stats.json").write_text(content)
        if number != "3":
            (tmp_path / f"0000000{number}.tar").write_bytes(b"")
    crawl.forget_unfinished(tmp_path)
    assert [path.name for path in tmp_path.glob("*.json")] == ["00000000_stats.json"]


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


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("part=3/2", "part=3/2: the parts of 2 are 1/2 to 2/2"),
        ("part=1/3", "part=1/3: there are 2 metadata files"),
        ("part=0/2", "setting part"),
        ("part=half", "setting part"),
        ("scale=enormous", "setting scale"),
        ("timeout=0", "setting timeout"),
        ("retry_faild=true", "did you mean 'retry_failed'"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: str, says: str) -> None:
    content = {f"{letter * 32}.parquet": 1 for letter in "ab"}
    payload = {"repository": "mlfoundations/datacomp_small", "revision": COMMIT, "files": content}
    write_record(tmp_path / "pool" / "source.json", Record(kind="source", payload=payload))
    scale = [] if setting.startswith("scale") else ["scale=small"]
    with pytest.raises(ConfigError, match=says):
        download.command([f"data_dir={tmp_path}/pool", *scale, "skip_images=true", setting])


def test_parts_of_other_metadata(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    for number in range(5):
        pq.write_table(metadata("http://x", ["good"], first=number), tmp_path / "list" / f"{number}.parquet")
    taken = []
    for i in (1, 2):
        record = download.download(
            download.Settings(data_dir=str(tmp_path / str(i)), metadata_dir=str(tmp_path / "list"), part=f"{i}/2",
                              skip_images=True)
        )  # fmt: skip
        assert sorted(path.name for path in (tmp_path / str(i) / "metadata").iterdir()) == record.payload["metadata"]
        taken.append(record.payload["metadata"])
    assert taken == [["0.parquet", "2.parquet", "4.parquet"], ["1.parquet", "3.parquet"]]
    with pytest.raises(ConfigError, match="part divides metadata files, and url_list is one"):
        download.download(download.Settings(data_dir=str(tmp_path / "x"), url_list="x.csv", part="1/2"))


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    def settings(**values: object) -> download.Settings:
        return download.Settings.model_validate({"data_dir": str(tmp_path / "pool"), **values})

    with pytest.raises(ConfigError, match="give one of scale, metadata_dir and url_list, not none"):
        download.download(settings())
    with pytest.raises(ConfigError, match="not scale and url_list"):
        download.download(settings(scale="small", url_list="x.csv"))
    with pytest.raises(ArtifactError, match=r"holds no \.parquet"):
        download.download(settings(metadata_dir=str(tmp_path)))
    (tmp_path / "list.csv").write_text("url,caption\nhttp://x/1.jpg,one\n")
    with pytest.raises(ArtifactError, match=r"list\.csv: has no column 'text', only url, caption"):
        download.download(settings(url_list=str(tmp_path / "list.csv")))
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(ArtifactError, match=r"list\.parquet: neither a parquet nor a csv file"):
        download.download(settings(url_list=str(tmp_path / "list.parquet")))
    (tmp_path / "list.csv").write_text("url,text\nhttp://x/1.jpg,one\n")
    record = download.download(settings(url_list=str(tmp_path / "list.csv"), skip_images=True))
    assert record.payload["metadata"] == ["list.parquet"]
