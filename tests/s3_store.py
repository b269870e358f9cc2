"""An object store on this machine that speaks as much of S3 as s3fs asks of it."""

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from serving import serving

_CHANGED = "Sat, 01 Jan 2022 00:00:00 GMT"


class S3Store(ThreadingHTTPServer):
    """Holds one bucket, `bucket`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        """Key to content."""
        self.asked: list[tuple[str, str]] = []
        """Method and key of each request about one object."""
        self.delay = 0.0
        """Seconds that each of them takes."""
        self.answers: float = float("inf")
        """So many of them are answered; those after are refused."""
        self.refused = 0
        """The status with which every request is refused; 0: none is."""
        super().__init__(("127.0.0.1", 0), _S3)


class _S3(BaseHTTPRequestHandler):
    server: S3Store
    protocol_version = "HTTP/1.1"

    def _key(self) -> str:
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        assert bucket == "bucket"
        if key:
            self.server.asked.append((self.command, key))
        return key

    def do_PUT(self) -> None:
        assert "Transfer-Encoding" not in self.headers and "aws-chunked" not in self.headers.get("Content-Encoding", "")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self._key()] = content
        self._answer(200, b"", {"ETag": _tag(content)})

    def do_HEAD(self) -> None:
        if not self._refused():
            key = self._key()
            self._object(key) if key else self._answer(200, b"")

    def do_GET(self) -> None:
        if not self._refused():
            key = self._key()
            self._object(key) if key else self._list(parse_qs(urlsplit(self.path).query))

    def _refused(self) -> bool:
        """Whether the request was refused: each while the store is told to, and those about a bucket it has not."""
        code, name = self.server.refused, "AccessDenied" if self.server.refused == 403 else "InternalError"
        if not code and urlsplit(self.path).path.split("/")[1] != "bucket":
            code, name = 404, "NoSuchBucket"
        if code:
            self._answer(code, f"<Error><Code>{name}</Code><Message>not today</Message></Error>".encode())
        return bool(code)

    def _object(self, key: str) -> None:
        time.sleep(self.server.delay)
        if len(self.server.asked) > self.server.answers:
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>no more</Message></Error>")
            return
        content = self.server.objects.get(key)
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")
            return
        facts = {"ETag": _tag(content), "Last-Modified": _CHANGED}
        if "Range" not in self.headers:
            self._answer(200, content, facts)
            return
        first, last = (int(place) for place in self.headers["Range"].removeprefix("bytes=").split("-"))
        facts["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
        self._answer(206, content[first : last + 1], facts)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        found, folders = [], set()
        for key, content in sorted(self.server.objects.items()):
            rest = key[len(prefix) :]
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            found.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>{_tag(content)}</ETag>"
                "<LastModified>2022-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            )
        shared = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        self._answer(200, (
            f"<ListBucketResult><Name>bucket</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>"
            f"<IsTruncated>false</IsTruncated>{''.join(found)}{shared}</ListBucketResult>"
        ).encode())  # fmt: skip

    def _answer(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@functools.lru_cache(64)  # the sum of a tar takes longer than a small range of it
def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextlib.contextmanager
def store_at_s3(patch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store that s3://bucket leads to meanwhile."""
    import s3fs

    store = S3Store()
    with serving(store) as address:
        settings = {
            "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/dev/null",
        }  # fmt: skip
        for name, value in settings.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield store
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
