"""sha256 of task files, remembered as long as a file's size and time of change stay as they were.

Hashing every tar of every task before each evaluation would cost more than reading them. Like git's index, the memory
trusts size, nanosecond time and inode; it lies in the user's cache folder and may be deleted at any time.
"""

import contextlib
import json
import os
from hashlib import sha256 as _sha256
from pathlib import Path

from harness.errors import InfraError
from harness.files import cache_dir, sha256_file, write_bytes

MEMORY = "task-digests"


def _place(path: Path) -> Path:
    # One small file each: many processes remember at once, and none needs a lock.
    return cache_dir() / MEMORY / f"{_sha256(str(path.absolute()).encode()).hexdigest()[:32]}.json"


def _state(path: Path) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def sha256(path: Path) -> str:
    """sha256 (hex) of the file, from memory if it has not changed."""
    state, place = _state(path), _place(path)
    try:
        known = json.loads(place.read_bytes())
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or not readably so: the file is hashed
    digest = sha256_file(path)
    with contextlib.suppress(InfraError):  # a cache that cannot be written only costs time
        write_bytes(place, json.dumps({"path": str(path), "state": state, "sha256": digest}).encode())
    return digest
