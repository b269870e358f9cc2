"""A whole download from a hub and an image server on loopback, with everything that servers do wrong."""

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import typing
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pool_folders import picture, uid_of, write_pool

from harness import crawl, download, executor, files, progress, retries, select, uid
from harness.crawl import ROBOTS, read_counts
from harness.errors import ArtifactError, ConfigError, InfraError
from harness.pool.seal import seal
from harness.pool.sealed import SealedPool
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
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600,
                          env=environment(address, folder.parent / "home"))  # fmt: skip


def blur_of(sealed: SealedPool, number: int) -> float:
    """How far pixels of a downloaded picture are from the original's, in the box where a face may be."""
    shard, row = 0, uid.to_hex(sealed.index(0)["uid"]).index(uid_of(number))
    with Reader(sealed.shards[shard]) as reader:
        got = Image.open(io.BytesIO(read_sample(reader, sealed.index(shard)[row])[0])).convert("RGB")
    original = Image.open(io.BytesIO(large_picture(number))).convert("RGB").resize(got.size, Image.Resampling.BOX)
    box = (got.width // 10, got.height // 10, got.width * 4 // 10, got.height // 2)
    difference = np.asarray(got.crop(box), float) - np.asarray(original.crop(box), float)
    return float(np.abs(difference).mean())


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
@pytest.mark.parametrize("distributor", ["ray", "pyspark"])
def test_on_a_cluster_of_one_machine(web: tuple[str, type[Web]], tmp_path: Path, distributor: str) -> None:
    if importlib.util.find_spec(distributor) is None or (distributor == "pyspark" and not shutil.which("java")):
        pytest.skip(f"needs {distributor}")
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
    free_space(monkeypatch, 100_000)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.47.0")
    monkeypatch.setattr(crawl.subprocess, "Popen", None)
    settings = download.Settings(data_dir=str(tmp_path / "pool"), url_list=str(tmp_path / "pairs.parquet"))
    with pytest.raises(InfraError, match=r"0\.0 GB free; make room or choose another"):
        download.download(settings)


def free_space(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 50, 1 << 50, size))


def hub(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], asked: list[tuple[str, str]]) -> None:
    """A hub that tells of these files, notes what it is asked for, and gives none."""
    import huggingface_hub

    def about(_: object, repository: str, *, revision: str, files_metadata: bool) -> types.SimpleNamespace:
        assert files_metadata
        asked.append((repository, revision))
        siblings = [types.SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
        return types.SimpleNamespace(sha=COMMIT, siblings=siblings)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", about)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)


def test_the_disk_holds_metadata_features_and_pictures_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small: 3 GB of metadata, 75 GB of features and 450 GB of pictures."""
    ends = {".parquet": 121_000_000, ".npz": 2_900_000_000}
    sizes = {f"{n:032}{end}": size for n in range(26) for end, size in ends.items()}
    hub(monkeypatch, sizes, [])

    def needed(**more: object) -> float:
        settings = {"data_dir": str(tmp_path / "pool"), "scale": "small", **more}
        with pytest.raises(InfraError, match=r"GB needed, 2\.0 GB free") as caught:
            download.download(download.Settings.model_validate(settings))
        return float(re.findall(r"([\d.]+) GB needed", str(caught.value))[0])

    free_space(monkeypatch, 2_000_000_000)
    assert needed(skip_images=True) == 3.1
    assert needed() == pytest.approx(453, abs=5)
    assert needed(features=True) == pytest.approx(528, abs=5)
    assert needed(part="1/26", features=True) == pytest.approx(528 / 26, abs=0.3)
    pq.write_table(metadata("http://x", ["good"] * 3), tmp_path / "0.parquet")
    free_space(monkeypatch, 3 * crawl.BYTES_PER_PAIR)
    with pytest.raises(InfraError, match="GB needed"):
        download.download(download.Settings(data_dir=str(tmp_path / "other"), metadata_dir=str(tmp_path)))
    assert not (tmp_path / "other" / "metadata").exists()


def test_a_branch_or_tag_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    hub(monkeypatch, {"a.parquet": 1}, asked)

    def resolved(folder: str, **more: object) -> Record:
        settings = {"data_dir": str(tmp_path / folder), "scale": "datacomp_1b", **more}
        return download._source(download.Settings.model_validate(settings), tmp_path / folder)

    first = resolved("a", revision="v2")
    assert first.payload["revision"] == COMMIT
    for again in ("v2", COMMIT, None):
        assert resolved("a", revision=again) == first
    assert asked == [("mlfoundations/datacomp_1b", "v2")]
    with pytest.raises(ConfigError, match=f"revision: .* holds {COMMIT}, not main; choose another data_dir"):
        resolved("a", revision="main")
    assert resolved("b").digest == resolved("b", revision="main").digest == first.digest
    with pytest.raises(ConfigError, match=r"scale: .* mlfoundations/datacomp_1b, not mlfoundations/datacomp_small"):
        resolved("a", scale="small")
    hub(monkeypatch, {"a.npz": 1}, asked)
    with pytest.raises(ConfigError, match="datacomp_1b has no parquet file at revision v3"):
        resolved("c", revision="v3")
    assert not (tmp_path / "c").exists()


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


def test_shards_begun_with_other_links_or_settings(tmp_path: Path) -> None:
    """A shard is known by its number: with other links, other rows would count as done and be lost."""
    plan = {"links": {"b.parquet": 9}, "number_sample_per_shard": 12, "bbox_col": "face_bboxes"}
    crawl.begin(tmp_path, plan)
    crawl.begin(tmp_path, plan)
    with pytest.raises(ConfigError, match="begun with other links, and would not fit"):
        crawl.begin(tmp_path, plan | {"links": {"a.parquet": 9, "b.parquet": 9}})
    with pytest.raises(ConfigError, match="begun with number_sample_per_shard=12, not 24"):
        crawl.begin(tmp_path, plan | {"number_sample_per_shard": 24})
    with pytest.raises(ConfigError, match="begun with bbox_col=face_bboxes, not None"):
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
    stand_in += "    pathlib.Path(arguments['output_folder'], 'pid').write_text(str(os.getpid()))\n    time.sleep(60)\n"
    (tmp_path / "img2dataset.py").write_text(stand_in)
    code = "import sys, pathlib; from harness import crawl; crawl._require = lambda name: '1'\n"
    code += "crawl.crawl(pathlib.Path('.'), pathlib.Path(sys.argv[1]), links={'a': 1}, columns=[],"
    code += " settings=crawl.CrawlSettings())"
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")],
                              env={**os.environ, "PYTHONPATH": paths})  # fmt: skip
    pid = tmp_path / "out" / "pid"
    while not (pid.exists() and pid.read_text()) and caller.poll() is None:
        time.sleep(0.02)
    assert caller.poll() is None
    caller.kill()
    caller.wait()
    for _ in range(500):
        if not running(int(pid.read_text())):
            return
        time.sleep(0.02)
    pytest.fail("img2dataset still runs")


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


def running(pid: int) -> bool:
    """Whether a process is there, and not only its entry in the table."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def finished_shard(folder: Path, number: int, rows: list[tuple[int, str, str | None]]) -> None:
    """What img2dataset writes beside a tar: (number of the pair, status, message)."""
    folder.mkdir(parents=True, exist_ok=True)
    uids, status, messages = zip(*rows, strict=True)
    table = pa.table({"uid": [uid_of(n) for n in uids], "status": status, "error_message": messages})
    pq.write_table(table, folder / f"{number:08d}.parquet")
    (folder / f"{number:08d}_stats.json").write_text(json.dumps({"count": len(rows), "successes": 0}))
    (folder / f"{number:08d}.tar").write_bytes(b"")


def test_what_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tried").mkdir()
    for number in range(2):
        table = metadata("http://x", ["good"] * 4, first=4 * number).append_column("more", pa.array([1] * 4))
        pq.write_table(table, tmp_path / "tried" / f"{number}.parquet", row_group_size=3)
    shards, target = tmp_path / "shards", tmp_path / "again"
    refused = "Use of image disallowed by X-Robots-Tag directive"
    finished_shard(shards, 0, [(0, "success", None), (1, "failed_to_download", "timed out")])
    finished_shard(shards, 1, [(3, "failed_to_download", refused), (2, "failed_to_resize", "Image decoding error")])
    finished_shard(shards / "retry_1", 0, [(0, "failed_to_download", "of another try")])
    finished_shard(shards, 2, [(4, "failed_to_download", "timed out")])
    (shards / "00000002.parquet").unlink()
    assert retries.write_failed(shards, tmp_path / "tried", target) == 2
    assert "1 shards have no parquet beside them, so what failed there is not tried again" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["0.parquet"]
    table = pq.read_table(target / "0.parquet")
    assert table.column_names == ["uid", "url", "text", "face_bboxes"]
    assert table["uid"].to_pylist() == [uid_of(1), uid_of(2)]
    finished_shard(tmp_path / "done", 0, [(0, "success", None)])
    assert retries.write_failed(tmp_path / "done", tmp_path / "tried", tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()


def tries(shards: Path, rows: list[tuple[int, str, str | None]]) -> None:
    """A finished shard of `rows`, with its counts."""
    finished_shard(shards, 0, rows)
    messages = [message or "success" for _, _, message in rows]
    stats = {"count": len(rows), "successes": messages.count("success"), "status_dict": dict(Counter(messages))}
    (shards / "00000000_stats.json").write_text(json.dumps(stats))


def test_a_retry_is_in_the_counts_of_every_later_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry that is interrupted goes on; what it brought stays, and so do the reasons of what it did not try."""
    urls, out = tmp_path / "urls", tmp_path / "shards"
    urls.mkdir()
    pq.write_table(metadata("http://x", ["good"] * 5), urls / "0.parquet")
    refused = f"Use of image disallowed by {ROBOTS} directive"
    tries(out, [(0, "success", None), (1, "failed", refused), (2, "failed", "404"), (3, "failed", "404"),
                (4, "failed", "timed out")])  # fmt: skip
    second = [(2, "success", None), (3, "failed", "404"), (4, "failed", "500")]
    how, asked, answers = crawl.CrawlSettings(), [], iter([second[:1], second, [(3, "success", None)]])

    def fake(failed: Path, shards: Path, *, links: dict[str, int], **_: object) -> crawl.CrawlCounts:
        asked.append((shards.name, links))
        tries(shards, next(answers))
        if len(asked) == 1:
            raise KeyboardInterrupt
        return read_counts(shards)

    monkeypatch.setattr(retries, "crawl", fake)

    def counted(*, again: bool) -> tuple[int, dict[str, int]]:
        counts = read_counts(out)
        retries.add_retries(counts, out, urls, [], how, again=again)
        return counts.successes, dict(counts.failures)

    first = {refused: 1, "404": 2, "timed out": 1}
    assert counted(again=False) == (1, first)
    with pytest.raises(KeyboardInterrupt):
        counted(again=True)
    assert counted(again=False) == (2, first)
    assert counted(again=True) == counted(again=False) == (2, {refused: 1, "404": 1, "500": 1})
    assert counted(again=True)[0] == counted(again=False)[0] == 3
    assert asked == [("retry_1", {"0.parquet": 3}), ("retry_1", {"0.parquet": 3}), ("retry_2", {"0.parquet": 2})]


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


def test_help_tells_what_each_setting_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        download.command(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in download.Settings.model_fields:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert not line.split()[1].startswith("(")


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


def crawled(monkeypatch: pytest.MonkeyPatch, tried: int) -> None:
    """Let a crawl be done at once."""
    monkeypatch.setattr(download, "crawl", lambda *_, **__: crawl.CrawlCounts(tried=tried, successes=tried - 1))


def test_parts_work_side_by_side_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").mkdir()
    for number in range(3):
        pq.write_table(metadata("http://x", ["good"], first=number), tmp_path / "list" / f"{number}.parquet")
    pool = write_pool(tmp_path / "pool")
    crawled(monkeypatch, 5)

    def part(name: str, **more: object) -> Record:
        settings = {"data_dir": str(pool), "metadata_dir": str(tmp_path / "list"), "part": name, **more}
        return download.download(download.Settings.model_validate(settings))

    # Another machine is at part 1; to wait for it would hang here.
    with files.lock(pool, shared=True), files.lock(pool / ".urls" / "part_1_of_2"):
        second = part("2/2")
    first = part("1/2")
    assert part("1/2", skip_images=True) == first  # later, for the features alone: what was crawled is not forgotten
    assert sorted(path.name for path in pool.glob("download*.json")) == [
        "download_part_1_of_2.json", "download_part_2_of_2.json",
    ]  # fmt: skip
    assert [record.payload["metadata"] for record in (first, second)] == [["0.parquet", "2.parquet"], ["1.parquet"]]
    seal(str(pool), executor=executor.local(1))
    about = read_record(pool / "pool.json", "pool").provenance["download"]
    assert (about["links"], about["pictures"], about["rate"]) == (10, 8, 0.8)
    assert about["parts"][0]["digest"] == first.digest
    assert about["parts"][0]["img2dataset"]["bbox_col"] == "face_bboxes"
    assert about["parts"][0]["packages"]["img2dataset"] == importlib.metadata.version("img2dataset")


def test_parts_of_another_number_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would download the same links twice."""
    pq.write_table(metadata("http://x", ["good"]), tmp_path / "0.parquet")
    crawled(monkeypatch, 1)

    def settings(part: str | None, **more: object) -> download.Settings:
        values = {"data_dir": str(tmp_path / "pool"), "metadata_dir": str(tmp_path), "part": part, **more}
        return download.Settings.model_validate(values)

    download.download(settings(None, skip_images=True))
    crawl.begin(tmp_path / "pool" / "shards" / "part_2_of_2", {})
    with pytest.raises(ConfigError, match=r"part=None: .*shards was begun in 2 parts; go on so"):
        download.download(settings(None))
    shutil.rmtree(tmp_path / "pool" / "shards")
    crawl.begin(tmp_path / "pool" / "shards", {})
    assert download.download(settings(None)).payload["links"] == 1
    with pytest.raises(ConfigError, match=r"part=1/1: .*shards was begun as a whole; go on so"):
        download.download(settings("1/1"))


def test_other_pairs_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kinds in (("a", ["good"]), ("b", ["good", "404"])):
        pq.write_table(metadata("http://x", kinds), tmp_path / f"{name}.parquet")

    def settings(**values: object) -> download.Settings:
        return download.Settings.model_validate({"data_dir": str(tmp_path / "pool"), "skip_images": True, **values})

    download.download(settings(url_list=str(tmp_path / "b.parquet")))
    for other in ({"url_list": str(tmp_path / "a.parquet")}, {"metadata_dir": str(tmp_path)}):
        with pytest.raises(ConfigError, match=r"holds the pairs of other files .*; choose another data_dir"):
            download.download(settings(**other))
    with pytest.raises(ConfigError, match="holds metadata that are not of the hub, not mlfoundations/datacomp_small"):
        download.download(settings(scale="small"))
    pq.write_table(metadata("http://x", ["good"] * 50), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"url_list: .* holds the pairs of other files"):
        download.download(settings(url_list=str(tmp_path / "b.parquet")))
    with pytest.raises(ArtifactError, match=r"c\.parquet"):
        download.download(settings(url_list=str(tmp_path / "c.parquet")))


def test_img2dataset_is_given_the_links_of_this_download_alone(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.parquet").write_bytes(b"")
    download._links(tmp_path / "urls", [tmp_path / "a.parquet"])
    (tmp_path / "urls" / "b.parquet").symlink_to(tmp_path / "moved" / "b.parquet")
    download._links(tmp_path / "urls", [tmp_path / "b.parquet"])
    assert [path.resolve() for path in (tmp_path / "urls").iterdir()] == [tmp_path / "b.parquet"]


def test_metadata_that_cannot_be_crawled(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "list").mkdir()
    good = metadata("http://x", ["good"] * 2)
    settings = download.Settings(data_dir=str(tmp_path / "pool"), metadata_dir=str(tmp_path / "list"))
    pq.write_table(good.drop_columns(["face_bboxes"]), tmp_path / "list" / "0.parquet")
    crawled(monkeypatch, 2)
    assert download.download(settings).payload["img2dataset"]["bbox_col"] is None
    assert "0.parquet: has no column face_bboxes, so faces are not blurred" in capsys.readouterr().err
    pq.write_table(good, tmp_path / "list" / "0.parquet")
    pq.write_table(good.drop_columns(["text"]), tmp_path / "list" / "1.parquet")
    with pytest.raises(ArtifactError, match=r"1\.parquet: no column 'text'"):
        download.download(settings.model_copy(update={"data_dir": str(tmp_path / "other")}))
    (tmp_path / "list" / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"1\.parquet: not a readable parquet file"):
        download.download(settings.model_copy(update={"data_dir": str(tmp_path / "third")}))
    (tmp_path / "list" / "1.parquet").unlink()
    for wrong in ("17", "F" * 32, None):
        column = pa.array(["f" * 32, wrong], pa.string())
        pq.write_table(good.set_column(0, "uid", column), tmp_path / "list" / "2.parquet")
        with pytest.raises(ArtifactError, match=r"2\.parquet: row 1: .* is not a uid"):
            download.download(settings.model_copy(update={"data_dir": str(tmp_path / "uids")}))
    assert not (tmp_path / "uids" / "metadata").exists()
    pq.write_table(good.set_column(0, "uid", pa.array(["f" * 32, "no uid"])), tmp_path / "pairs.parquet")
    with pytest.raises(ArtifactError, match=r"pairs\.parquet: row 1: 'no uid' is not a uid"):
        download.download(download.Settings(data_dir=str(tmp_path / "4"), url_list=str(tmp_path / "pairs.parquet")))


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    def settings(**values: object) -> download.Settings:
        return download.Settings.model_validate({"data_dir": str(tmp_path / "pool"), **values})

    with pytest.raises(ConfigError, match="give one of scale, metadata_dir and url_list, not none"):
        download.download(settings())
    with pytest.raises(ConfigError, match="not scale and url_list"):
        download.download(settings(scale="small", url_list="x.csv"))
    for more in ({"features": True}, {"revision": "main"}):
        with pytest.raises(ConfigError, match="it is of a scale on the hub; leave it out with metadata_dir"):
            download.download(settings(metadata_dir=str(tmp_path), **more))
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
