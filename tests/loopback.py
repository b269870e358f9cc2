"""A hub and an image server on loopback, with everything that servers do wrong."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pool_folders import picture, uid_of
from serving import part_of, serving
from waiting import LONG

needs_img2dataset = pytest.mark.skipif(importlib.util.find_spec("img2dataset") is None, reason="extra download")
COMMIT = "c0ffee" * 6 + "c0ff"
ABOUT = "/api/datasets/mlfoundations/datacomp_small"
FAULTS = ("404", "403", "500", "html", "robots", "cut", "corrupt", "empty", "loop", "stall")
ODD = ("redirect", "trickle", "mislabelled")
"""What servers do that still gives a picture."""
GOOD = [*range(14), *range(24, 30)]
"""Of the 30 links of a file, those that give a picture."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # with the usual 5 some of many that connect at once are kept waiting


class Web(BaseHTTPRequestHandler):
    """A hub and an image server in one."""

    files: dict[str, bytes]
    healed: set[str]
    asked: list[str]
    most: float
    """The first so many requests are answered, for `stored` pictures; the others wait until it is raised."""
    stored: dict[str, bytes]
    refused: int = 0
    """The status with which the hub refuses whatever it is asked; 0: it does not."""

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
        path = unquote(self.path.partition("?")[0])
        self.asked.append(path)
        turn = len(self.asked)
        if self.refused:
            self._send(self.refused, b'{"error": "not today"}', "application/json")
        elif path.startswith(f"{ABOUT}/tree/"):
            self._tree(path.removeprefix(f"{ABOUT}/tree/").partition("/")[2].strip("/"))
        elif path.startswith(ABOUT):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            about = {"id": "mlfoundations/datacomp_small", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(about).encode(), "application/json")
        elif "/resolve/" in path:
            content = self.files.get(path.partition("/resolve/")[2].partition("/")[2])
            if content is None:
                self._send(404, b"", X_Error_Code="EntryNotFound")
                return
            facts = {"ETag": f'"{len(content)}"', "X_Repo_Commit": COMMIT}
            if "Range" not in self.headers:
                self._send(200, content, "application/octet-stream", **facts)
                return
            part, facts["Content_Range"] = part_of(content, self.headers["Range"])
            self._send(206, part, "application/octet-stream", **facts)
        elif path.startswith("/api/"):
            self._send(404, b'{"error": "Repository not found"}', "application/json", X_Error_Code="RepoNotFound")
        elif path in self.stored:
            while turn > self.most:
                time.sleep(0.02)
            self._send(200, self.stored[path])
        elif path.startswith("/picture/"):
            self._picture(path.split("/")[2], int(path.split("/")[3]))
        else:
            self._send(404, b"no such page", "text/html")

    def _tree(self, folder: str) -> None:
        """What lies in `folder` of the repository, which has no empty folders."""
        within = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for name, content in self.files.items():
            if not name.startswith(within):
                continue
            first, deeper, _ = name.removeprefix(within).partition("/")
            kind = {"type": "directory", "size": 0} if deeper else {"type": "file", "size": len(content)}
            entries[within + first] = {"path": within + first, "oid": uid_of((name, content)), **kind}
        if entries:
            self._send(200, json.dumps(list(entries.values())).encode(), "application/json")
        else:
            self._send(404, b"", X_Error_Code="EntryNotFound")

    def _picture(self, kind: str, number: int) -> None:
        good = large_picture(number)
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
            self.connection.settimeout(120)
            with contextlib.suppress(TimeoutError, ConnectionError):
                self.rfile.read(1)  # until the other side has lost its patience and hung up
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


@contextlib.contextmanager
def served() -> Iterator[tuple[str, type[Web]]]:
    """The address of a hub and image server, and what it serves."""
    handler = type("Handler", (Web,), {"files": {}, "healed": set(), "asked": [], "most": float("inf"), "stored": {}})
    with serving(Server(("127.0.0.1", 0), handler)) as address:
        yield address, handler


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
    hub |= {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HUB_ETAG_TIMEOUT": "120"}
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
    ]
    if not any(argument.startswith("timeout=") for argument in arguments):
        command.append("timeout=60")
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=LONG,
                          env=environment(address, folder.parent / "home"))  # fmt: skip


def fill_hub(address: str, handler: type[Web], tmp_path: Path) -> None:
    mixed = [*["good"] * 14, *FAULTS, *ODD, *["good"] * 3]
    handler.files = {"README.md": b"a pool"}
    for part, stem in enumerate(("a" * 32, "b" * 32)):
        handler.files[f"{stem}.parquet"] = parquet(metadata(address, mixed, first=100 * part))
        np.savez(tmp_path / "x.npz", b32_img=np.zeros((30, 4), np.float16))
        handler.files[f"{stem}.npz"] = (tmp_path / "x.npz").read_bytes()
