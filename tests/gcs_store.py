"""An object store on this machine that speaks as much of Google's JSON API as gcsfs asks of it."""

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest
from pool_folders import uid_of
from serving import part_of, serving


class GcsStore(ThreadingHTTPServer):
    """Holds one bucket, `bucket`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        """Key to content."""
        self.refused = 0
        """The status with which every request is refused; 0: none is."""
        super().__init__(("127.0.0.1", 0), _Gcs)


class _Gcs(BaseHTTPRequestHandler):
    server: GcsStore
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        bucket, _, rest = address.path.partition("/b/")[2].partition("/")
        key, query = unquote(rest.partition("/")[2]), parse_qs(address.query)
        if self.server.refused:
            self._refuse(self.server.refused, "not today")
        elif bucket != "bucket":
            self._refuse(404, "The specified bucket does not exist.")
        elif not key:
            self._list(query.get("prefix", [""])[0], query.get("delimiter", [""])[0])
        elif key not in self.server.objects:
            self._refuse(404, "No such object")
        elif query.get("alt") != ["media"]:
            self._tell(self._about(key))
        elif "Range" in self.headers:
            part, place = part_of(self.server.objects[key], self.headers["Range"])
            self._answer(206, part, {"Content-Range": place})
        else:
            self._answer(200, self.server.objects[key])

    def _about(self, key: str) -> dict[str, str]:
        content = self.server.objects[key]
        return {
            "kind": "storage#object", "name": key, "bucket": "bucket", "size": str(len(content)), "generation": "1",
            "etag": uid_of(content), "updated": "2022-01-01T00:00:00.000Z", "timeCreated": "2022-01-01T00:00:00.000Z",
        }  # fmt: skip

    def _list(self, prefix: str, delimiter: str) -> None:
        found = sorted(key for key in self.server.objects if key.startswith(prefix))
        deeper = {key: delimiter and delimiter in key[len(prefix) :] for key in found}
        folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in found if deeper[key]}
        items = [self._about(key) for key in found if not deeper[key]]
        self._tell({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def _tell(self, what: object) -> None:
        self._answer(200, json.dumps(what).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: int, message: str) -> None:
        self._answer(code, json.dumps({"error": {"code": code, "message": message}}).encode())

    def _answer(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def store_at_gs(patch: pytest.MonkeyPatch) -> Iterator[GcsStore]:
    """A store that gs://bucket leads to meanwhile, here and in processes that are started here."""
    store = GcsStore()
    with serving(store) as address:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        # What gcsfs asks over gRPC (is the bucket a hierarchical one?) it asks of Google alone.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        system = fsspec.get_filesystem_class("gs")
        system.clear_instance_cache()
        try:
            yield store
        finally:
            system.clear_instance_cache()
