"""Downloading pictures with img2dataset, with DataComp's settings, in a process of its own.

A shard is finished when its stats.json is there; img2dataset goes on with the others when it is called again.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, InfraError
from harness.files import list_files
from harness.progress import Progress

PER_SHARD = 10_000
POLL_SECONDS = 0.5
ROBOTS = "X-Robots-Tag"
"""In the message of a page that asks not to be used; its pictures are never tried again."""


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

    def arguments(self, urls: Path, out: Path, columns: list[str]) -> dict[str, Any]:
        """Arguments of img2dataset.download for the parquet files in `urls`."""
        return {
            "url_list": str(urls), "output_folder": str(out), "processes_count": self.processes,
            "thread_count": self.threads, "distributor": self.distributor, "number_sample_per_shard": self.per_shard,
            "image_size": 512, "resize_mode": "keep_ratio_largest", "resize_only_if_bigger": True,
            "encode_format": "jpg", "encode_quality": 95, "output_format": "webdataset", "input_format": "parquet",
            "url_col": "url", "caption_col": "text", "save_additional_columns": ["uid"],
            "bbox_col": "face_bboxes" if self.blur and "face_bboxes" in columns else None,
            "oom_shard_count": 8, "retries": 2, "timeout": self.timeout,
        }  # fmt: skip


@dataclass(slots=True)
class CrawlCounts:
    """What the finished shards of a folder say."""

    shards: int = 0
    tried: int = 0
    successes: int = 0
    size: int = 0
    """Bytes of the tars."""
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Share of the links that gave a picture, in [0, 1]."""
        return self.successes / max(self.tried, 1)


def read_counts(folder: Path) -> CrawlCounts:
    """Sum over the stats.json files in `folder`."""
    counts = CrawlCounts()
    for path in list_files(folder, "_stats.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # one that is being written counts the next time
            stats = json.loads(Path(path).read_text())
            counts.tried += int(stats["count"])
            counts.successes += int(stats["successes"])
            counts.shards += 1
            counts.failures.update({k: n for k, n in stats.get("status_dict", {}).items() if k != "success"})
            counts.size += os.path.getsize(path.removesuffix("_stats.json") + ".tar")
    return counts


def forget_unfinished(folder: Path) -> None:
    """Delete the stats.json files that are no whole JSON or have no tar: img2dataset takes them for finished shards."""
    for name in list_files(folder, "_stats.json"):
        path = Path(name)
        try:
            whole = path.with_name(path.name.replace("_stats.json", ".tar")).exists()
            int(json.loads(path.read_text())["count"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            path.unlink()


def crawl(urls: Path, out: Path, *, rows: int, columns: list[str], settings: CrawlSettings) -> CrawlCounts:
    """Download the `rows` links of the parquet files in `urls` to tars in `out`; returns when all shards are done.

    Raises ConfigError if img2dataset is not installed, InfraError if it ended before all shards were done.
    """
    try:
        import importlib.metadata

        importlib.metadata.version("img2dataset")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("downloading pictures needs img2dataset: pip install 'datacomp-harness[download]'") from error
    out.mkdir(parents=True, exist_ok=True)
    forget_unfinished(out)
    arguments = json.dumps(settings.arguments(urls, out, columns))
    code = "import json, sys, img2dataset; img2dataset.download(**json.loads(sys.argv[1]))"
    log = out / ".img2dataset.log"
    with open(log, "ab") as file, Progress("download", total=rows, unit="images") as bar:
        bar.skip(read_counts(out).tried)
        process = subprocess.Popen(
            [sys.executable, "-c", code, arguments], stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}, start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                _show(bar, read_counts(out))
        finally:
            _end(process)
        counts = read_counts(out)
        _show(bar, counts)
    if counts.tried < rows:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise InfraError(
            f"{out}: img2dataset ended after {counts.tried:,} of {rows:,} links (last line of {log}: {last[0]!r}); "
            "run the same command again"
        )
    return counts


def _show(bar: Progress, counts: CrawlCounts) -> None:
    if counts.tried > bar.done:
        bar.advance(counts.tried - bar.done, note=f"{counts.rate:.1%} answered, {counts.size / 1e9:.1f} GB")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End img2dataset and its workers, if they have not ended by themselves."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
