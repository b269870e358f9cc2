"""sha256 of task files and checkpoints, remembered as long as the file's state stays as it was.

Hashing every tar of every task before each evaluation would cost more than reading them. As git's index does, the
memory trusts device, inode, size and the times of the last change of content and of state (which no program can set
back), and never a file that changed so shortly before it was hashed that the next change could have got the same
time. It lies in the user's cache folder and may be deleted at any time.
"""

import contextlib
import json
import os
from hashlib import sha256 as _sha256
from pathlib import Path
from time import time_ns

from harness.errors import InfraError
from harness.files import answering, cache_dir, sha256_file, write_bytes

MEMORY = "task-digests"
SETTLED_NS = 2_000_000_000
"""No file system's clock is coarser."""


def _place(path: Path) -> Path:
    # One small file each: many processes remember at once, and none needs a lock.
    return cache_dir() / MEMORY / f"{_sha256(str(path.absolute()).encode()).hexdigest()[:32]}.json"


def _state(path: Path) -> list[int]:
    with answering(path):
        status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def sha256(path: Path) -> str:
    """sha256 (hex) of the file, from memory if it has not changed."""
    state = _state(path)
    try:
        known = json.loads(_place(path).read_bytes())
        if known["state"] == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or not readably so: the file is hashed
    return hashed(path)


def hashed(path: Path) -> str:
    """sha256 (hex) of the file, read now whatever is remembered."""
    started = time_ns()
    state = _state(path)
    with answering(path):
        digest = sha256_file(path)
    if max(state[-2:]) + SETTLED_NS < started:
        with contextlib.suppress(InfraError):  # a cache that cannot be written only costs time
            write_bytes(_place(path), json.dumps({"path": str(path), "state": state, "sha256": digest}).encode())
    return digest
