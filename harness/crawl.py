"""Downloading pictures with img2dataset, with DataComp's settings, in a process of its own.

A shard is finished when its stats.json is there; img2dataset goes on with the others when it is called again. It knows
a shard by its number alone, so what decides which links a number stands for is kept beside the shards.
"""

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, InfraError
from harness.files import list_files, require_space
from harness.progress import Progress
from harness.records import Record, read_record, write_record

PER_SHARD = 10_000
BYTES_PER_PAIR = 35_000
"""Of a pool's tars (small: 450 GB for 12.8 million links)."""
POLL_SECONDS = 2.0
ROBOTS = "X-Robots-Tag"
"""In the message of a page that asks not to be used; its pictures are never tried again."""
_SETTINGS = {"number_sample_per_shard": "per_shard", "bbox_col": "blur"}
"""Settings of ours by the names of img2dataset's."""
BEGUN = ".begun"
"""In a folder of shards: the links and settings with which they were begun."""
MOST_MESSAGES = 100_000
"""Different messages of failures that are counted; above it the rarer half is forgotten (many name their host)."""
_CHILD = """
import atexit, json, os, signal, sys, threading

code = 1

@atexit.register  # the first, so it is called last
def end_at_once():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take apart all that img2dataset imports would cost a second

def end_with_caller():
    os.read(0, 1)  # returns when the caller has ended, however that ended
    os.killpg(0, signal.SIGTERM)

threading.Thread(target=end_with_caller, daemon=True).start()
arguments = json.loads(sys.argv[1])
if arguments["distributor"] == "pyspark":
    from pyspark.sql import SparkSession

    SparkSession.builder.appName("img2dataset").getOrCreate()  # without one, img2dataset stays on this machine
import img2dataset

img2dataset.download(**arguments)
code = 0
"""
_NEEDS = {
    "img2dataset": ("downloading pictures", "datacomp-harness[download]"),
    "ray": ("distributor=ray", "datacomp-harness[ray]"),
    "pyspark": ("distributor=pyspark", "pyspark"),
}
"""What needs a package, and what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlSettings:
    """What the reference's download tells img2dataset (DataComp, download_upstream.py), and how hard to work."""

    blur: bool = True
    """Blur the boxes of the column face_bboxes."""
    processes: int = 16
    threads: int = 128
    distributor: str = "multiprocessing"
    """multiprocessing, ray or pyspark: img2dataset's own."""
    per_shard: int = PER_SHARD
    timeout: int = 10
    """Seconds without a byte after which a try ends."""

    def pictures(self, columns: list[str]) -> dict[str, Any]:
        """Arguments of img2dataset.download that decide what becomes of a link."""
        return {
            "number_sample_per_shard": self.per_shard,
            "image_size": 512, "resize_mode": "keep_ratio_largest", "resize_only_if_bigger": True,
            "encode_format": "jpg", "encode_quality": 95, "output_format": "webdataset", "input_format": "parquet",
            "url_col": "url", "caption_col": "text", "save_additional_columns": ["uid"],
            "bbox_col": "face_bboxes" if self.blur and "face_bboxes" in columns else None,
            "oom_shard_count": 8,
        }  # fmt: skip

    def arguments(self, urls: Path, out: Path, columns: list[str]) -> dict[str, Any]:
        """All arguments of img2dataset.download for the parquet files in `urls`."""
        return self.pictures(columns) | {
            "url_list": str(urls), "output_folder": str(out), "processes_count": self.processes,
            "thread_count": self.threads, "distributor": self.distributor, "retries": 2, "timeout": self.timeout,
        }  # fmt: skip


@dataclass(slots=True)
class CrawlCounts:
    """What the finished shards of a folder say."""

    tried: int = 0
    successes: int = 0
    size: int = 0
    """Bytes of the tars."""
    failures: Counter[str] = field(default_factory=Counter)
    counted: set[str] = field(default_factory=set)
    """The stats.json files that are in these sums."""

    @property
    def rate(self) -> float:
        """Share of the links that gave a picture, in [0, 1]."""
        return self.successes / max(self.tried, 1)

    def add(self, folder: Path) -> None:
        """Add the stats.json files in `folder` that are not counted yet."""
        for path in list_files(folder, "_stats.json"):
            if path in self.counted:
                continue
            # One that is being written counts the next time.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                stats = json.loads(Path(path).read_text())
                tried, successes = int(stats["count"]), int(stats["successes"])
                self.size += os.path.getsize(path.removesuffix("_stats.json") + ".tar")
                self.tried += tried
                self.successes += successes
                self.failures.update({k: n for k, n in stats.get("status_dict", {}).items() if k != "success"})
                self.counted.add(path)
        if len(self.failures) > MOST_MESSAGES:
            self.failures = Counter(dict(self.failures.most_common(MOST_MESSAGES // 2)))


def read_counts(folder: Path) -> CrawlCounts:
    """Sum over the stats.json files in `folder`."""
    counts = CrawlCounts()
    counts.add(folder)
    return counts


def still_to_come(folder: Path) -> int:
    """How many links of the crawl that was begun in `folder` are in no finished shard; 0 where none was begun."""
    if not (folder / BEGUN).exists():
        return 0
    links: dict[str, int] = read_record(folder / BEGUN, "crawl").payload.get("links", {})
    return max(sum(links.values()) - read_counts(folder).tried, 0)


def forget_unfinished(folder: Path) -> None:
    """Delete the stats.json files that are no whole JSON or have no tar: img2dataset takes them for finished shards."""
    for name in list_files(folder, "_stats.json"):
        path = Path(name)
        try:
            whole = path.with_name(path.name.replace("_stats.json", ".tar")).exists()
            stats = json.loads(path.read_text())
            int(stats["count"]), int(stats["successes"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            path.unlink()


def crawl(urls: Path, out: Path, *, links: dict[str, int], columns: list[str], settings: CrawlSettings) -> CrawlCounts:
    """Download the links of the parquet files in `urls` to tars in `out`; returns when all shards are done.

    `links` says how many rows each of these files has. Raises ConfigError if img2dataset or what its distributor needs
    is not installed, or if `out` was begun with other links or settings, InfraError if the disk is too small or
    img2dataset ended before all shards were done.
    """
    version = _require("img2dataset")
    if settings.distributor != "multiprocessing":
        _require(settings.distributor)
    out.mkdir(parents=True, exist_ok=True)
    begin(out, {"img2dataset": version, "links": links, **settings.pictures(columns)})
    forget_unfinished(out)
    counts, rows = read_counts(out), sum(links.values())
    if counts.tried >= rows:  # img2dataset would read its many imports to find the same
        return counts
    require_space(out, (rows - counts.tried) * BYTES_PER_PAIR)
    arguments = json.dumps(settings.arguments(urls, out, columns))
    log = out / ".img2dataset.log"
    with open(log, "ab") as file, Progress("download", total=rows, unit="images") as bar:
        bar.skip(counts.tried)
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, arguments], stdout=file, stderr=file, stdin=subprocess.PIPE,
            env={"PYSPARK_PYTHON": sys.executable, **os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"},
            process_group=0,  # ended with its workers; as a session it would compete with its caller for the cores
        )  # fmt: skip
        try:
            running = True
            while running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
                running = process.poll() is None  # asked before counting, so the last count sees all there is
                counts.add(out)
                _show(bar, counts)
        finally:
            _end(process)
    if counts.tried < rows:
        require_space(out, (rows - counts.tried) * BYTES_PER_PAIR)  # a disk that another has filled meanwhile
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise InfraError(
            f"{out}: img2dataset ended after {counts.tried:,} of {rows:,} links (last line of {log}: {last[0]!r}); "
            "run the same command again"
        )
    return counts


def _require(package: str) -> str:
    """The version of a package that is needed; ConfigError if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        what, install = _NEEDS[package]
        raise ConfigError(f"{what} needs {package}: pip install '{install}'") from error


def begin(out: Path, plan: dict[str, Any]) -> None:
    """Keep in `out` what its shards are begun with; ConfigError if they were begun with something else."""
    path = out / BEGUN
    if not path.exists():
        write_record(path, Record(kind="crawl", payload=plan))
        return
    begun = read_record(path, "crawl").payload
    for name, value in plan.items():
        if begun.get(name) != value:
            what = "other links" if name == "links" else f"{name}={begun.get(name)}, not {value}"
            if name in _SETTINGS:
                what += f" (setting {_SETTINGS[name]})"
            raise ConfigError(
                f"{out}: the shards there were begun with {what}, and would not fit; "
                "go on as they were begun, or choose another data_dir"
            )


def _show(bar: Progress, counts: CrawlCounts) -> None:
    if counts.tried > bar.done:
        bar.advance(counts.tried - bar.done, note=f"{counts.rate:.1%} answered, {counts.size / 1e9:.1f} GB")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End img2dataset and its workers, if they have not ended by themselves."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
