"""Publishing against a hub on loopback that keeps what it is sent."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import synthetic
from serving import serving

from harness import uid
from harness.entry import write_entry
from harness.entry_schema import load_entry
from leaderboard.case import Means
from leaderboard.verify import verify

OID = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a commit of small files needs."""

    files: ClassVar[dict[str, bytes]] = {}
    refuses: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = self._body()
        if self.refuses:
            self._answer(503, {"error": "busy"})
        elif self.path.endswith("/repos/create"):
            self._answer(200, {"url": f"http://{self.headers['Host']}/datasets/me/entry"})
        elif self.path.endswith("/validate-yaml"):
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer(200, {"files": modes})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            address = f"http://{self.headers['Host']}/datasets/me/entry/commit/{OID}"
            self._answer(200, {"commitUrl": address, "commitOid": OID, "hookOutput": ""})
        else:
            self._answer(404, {"error": self.path})

    def do_GET(self) -> None:
        found = re.fullmatch(rf"/datasets/me/entry/resolve/{OID}/(.+)", self.path)
        if found and found[1] in self.files:
            content = self.files[found[1]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self._answer(200, {"sha": OID, "id": "me/entry", "siblings": []} if "/api/" in self.path else {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, code: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.files.clear()
    Hub.refuses = False
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Hub)) as address:
        yield address


def _publish(hub: str, entry: Path, *runs: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-m", "harness.entry", "publish", str(entry), *map(str, runs), "--repo", "me/entry"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_what_is_published_can_be_fetched_and_verified(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leaderboard.means import fetch

    monkeypatch.setattr("harness.realised.IN_FOLDER", 10)
    sealed = synthetic.world(tmp_path / "pool", samples=500)
    run = synthetic.run(tmp_path / "run", sealed, synthetic.subset_of(sealed, keep=0.5))
    card = tmp_path / "card.md"
    card.write_text("# Mine\n")
    entry = tmp_path / "entry"
    uid.save(tmp_path / "list.npy", sealed.sorted_uids())
    write_entry([run], entry, card=card, pool_list=tmp_path / "list.npy")
    done = _publish(hub, entry, run)
    assert done.returncode == 0, done.stderr
    assert Hub.files["README.md"] == b"# Mine\n"
    there = load_entry(entry).payload.elsewhere
    assert "realised.npy" in there
    assert {place.url for place in there.values()} == {
        f"{hub}/datasets/me/entry/resolve/{OID}/{name}" for name in there
    }

    fetch(entry, tmp_path / "files", level="rescored")
    weights = tmp_path / "files" / "seed-0" / "train" / "checkpoint.safetensors"
    assert weights.read_bytes() == (run / "train" / "checkpoint.safetensors").read_bytes()
    brought = Means(files=tmp_path / "files", pool_list=sealed.sorted_uids())
    assert verify(entry, means=brought).outcome == "ok"


@pytest.mark.slow
def test_entries_may_share_a_folder_of_files(hub: str, tmp_path: Path) -> None:
    from leaderboard.means import fetch

    for seed in range(2):
        sealed = synthetic.world(tmp_path / f"pool-{seed}", samples=500, seed=seed)
        run = synthetic.run(tmp_path / f"run-{seed}", sealed, synthetic.subset_of(sealed, keep=0.5))
        write_entry([run], tmp_path / f"entry-{seed}")
        assert _publish(hub, tmp_path / f"entry-{seed}", run).returncode == 0
        fetch(tmp_path / f"entry-{seed}", tmp_path / "files", level="claimed")
        assert verify(tmp_path / f"entry-{seed}", means=Means(files=tmp_path / "files")).outcome == "ok"
    first = verify(tmp_path / "entry-0", means=Means(files=tmp_path / "files"))
    assert (first.outcome, "has not the sha256" in first.findings[0].what) == ("incomplete", True)


def test_a_file_that_is_not_the_stated_one_is_not_kept(hub: str, tmp_path: Path) -> None:
    from harness.errors import ArtifactError
    from leaderboard.means import fetch

    sealed = synthetic.world(tmp_path / "pool", samples=500)
    run = synthetic.run(tmp_path / "run", sealed, synthetic.subset_of(sealed, keep=0.5))
    entry = tmp_path / "entry"
    write_entry([run], entry)
    (tmp_path / "pool").rename(tmp_path / "moved")
    lost = _publish(hub, entry, run)
    assert (lost.returncode, lost.stderr.count("\n")) == (5, 1), lost.stderr
    assert _publish(hub, entry, run, "--pool", tmp_path / "moved").returncode == 0
    name = "seed-0/train/checkpoint.safetensors"
    for content, reason in ((b"x" * len(Hub.files[name]), "sha256"), (Hub.files[name] * 9, "longer than")):
        Hub.files[name] = content
        with pytest.raises(ArtifactError, match=reason):
            fetch(entry, tmp_path / "files", level="rescored")
        assert not (tmp_path / "files" / name).exists()


@pytest.mark.slow
def test_a_busy_hub_and_a_foreign_run_are_one_sentence(hub: str, tmp_path: Path) -> None:
    sealed = synthetic.world(tmp_path / "pool", samples=500)
    runs = [
        synthetic.run(tmp_path / f"run-{s}", sealed, synthetic.subset_of(sealed, keep=0.5), seed=s) for s in range(2)
    ]
    entry = tmp_path / "entry"
    write_entry(runs[:1], entry)
    other = _publish(hub, entry, runs[1])
    assert other.returncode == 5
    assert "seed-0/" in other.stderr
    Hub.refuses = True
    busy = _publish(hub, entry, runs[0])
    assert busy.returncode == 7, busy.stderr
    assert busy.stderr.count("\n") <= 2
    assert all(place.url is None for place in load_entry(entry).payload.elsewhere.values())
