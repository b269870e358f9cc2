"""A hub on this machine: serves data sets as the real one does, and breaks, stalls, lies or is busy where told to."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves folders as data sets the way the hub does."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sets: dict[str, dict[str, bytes]] = {}
        self.break_once: set[str] = set()
        self.lie_once: set[str] = set()
        self.lie_always: set[str] = set()
        self.gone: set[str] = set()
        self.busy: dict[str, list[int]] = {}
        self.stall_once: set[str] = set()
        self.stalls, self.over = threading.Event(), threading.Event()
        self.slow = 0.0
        self.asked: list[str] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, content=b"", headers=()):
        self.send_response(code)
        for name, value in (("Content-Length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("/api/datasets/"):
            repo = "/".join(path.removeprefix("/api/datasets/").split("/")[:2])
            return self.answer(self.server.busy[repo].pop()) if self.server.busy.get(repo) else self.describe(repo)
        repo, _, rest = path.removeprefix("/datasets/").partition("/resolve/")
        name = rest.partition("/")[2]
        content = self.server.sets.get(repo, {}).get(name)
        if content is None or name in self.server.gone:
            return self.answer(404, headers=[("X-Error-Code", "EntryNotFound")])
        if self.command == "GET" and self.server.busy.get(name):
            return self.answer(self.server.busy[name].pop())
        return self.serve(name, content)

    def describe(self, repo):
        if repo not in self.server.sets:
            return self.answer(404, headers=[("X-Error-Code", "RepoNotFound")])
        siblings = []
        for name, content in self.server.sets[repo].items():
            one = {"rfilename": name, "size": len(content)}
            if name.endswith((".tar", ".zip")):
                one["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            else:
                one["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            siblings.append(one)
        body = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}).encode()
        return self.answer(200, body, [("Content-Type", "application/json")])

    def serve(self, name, content):
        etag = hashlib.sha256(content).hexdigest()
        headers = [("ETag", f'"{etag}"'), ("X-Repo-Commit", COMMIT), ("Accept-Ranges", "bytes")]
        if name in self.server.lie_always or (self.command == "GET" and name in self.server.lie_once):
            self.server.lie_once.discard(name)
            content = content[:-1] + bytes([content[-1] ^ 1])
        code, start = 200, 0
        if self.headers.get("Range", "").startswith("bytes=") and self.command == "GET":
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            code = 206
            headers.append(("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"))
        if self.command == "GET" and name in self.server.break_once | self.server.stall_once:
            self.send_response(code)
            for key, value in (("Content-Length", str(len(content) - start)), *headers):
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[start : start + len(content) // 2])
            self.wfile.flush()
            if name in self.server.stall_once:
                self.server.stall_once.discard(name)
                self.server.stalls.set()
                self.server.over.wait()
            self.server.break_once.discard(name)
            self.close_connection = True
            return None
        time.sleep(self.server.slow)
        return self.answer(code, content[start:], headers)
