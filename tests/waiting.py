"""Waiting for what other processes do, for as long as a slow and busy machine may need."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = 1800
"""Seconds after which something hangs, however slow the machine is."""


def until(condition: Callable[[], object], *, seconds: float = LONG) -> None:
    """Return as soon as `condition` holds; the test fails if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:,.0f} s in vain")
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Whether a process is there, and not only its entry in the table."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while its file is read
        return False
