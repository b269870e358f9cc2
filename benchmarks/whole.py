"""A whole command in a process of its own, start-up included, and what it took."""

import os
import subprocess
import time
from collections.abc import Sequence
from typing import IO


def run(command: Sequence[str], *, log: IO[str] | None = None) -> tuple[int, str]:
    """Exit code of `command`, and its wall and processor time and memory for people; its output goes to `log`."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=log, stderr=log)
    _, status, spent = os.wait4(process.pid, 0)
    wall, processor = time.perf_counter() - started, spent.ru_utime + spent.ru_stime
    told = f"{wall:.0f} s, {processor:.0f} s of processor, largest process {spent.ru_maxrss / 1e6:.2f} GB"
    return os.waitstatus_to_exitcode(status), told
