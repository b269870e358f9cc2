"""Servers on loopback that answer while a test runs."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """The address of `server`, which answers meanwhile."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def part_of(content: bytes, wanted: str) -> tuple[bytes, str]:
    """The part that the header Range asks for, and the header Content-Range that goes with it."""
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    stop = min(int(last) + 1 if last else len(content), len(content))
    return content[int(first) : stop], f"bytes {first}-{stop - 1}/{len(content)}"
