"""The contest round: pool, selection, reading, training, evaluation, entry.

Each stage writes a record last and does nothing where a record of the same inputs is already there, so running
the same command again goes on where it was stopped. A run folder is locked while a command works in it.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness import executor as executors
from harness import files
from harness.config import RunConfig, compose
from harness.errors import ArtifactError, ConfigError
from harness.pool.sealed import SealedPool
from harness.pool.view import Pool
from harness.progress import say
from harness.provenance import provenance
from harness.records import Record, digest_of, read_record, write_record
from harness.subset import Subset

MASK_ABOVE = 0.1
"""Kept fraction from which the pool's own tars are read through a mask: below it, reading skips so much that
copying the chosen pairs once is cheaper than seeking in every pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What one contest round gives back."""

    run_dir: Path
    entry: Record
    aggregates: dict[str, float | None]
    """imagenet, shifts, vtab, retrieval, average: fractions in [0, 1], None where a task is missing."""


@dataclass
class _Clock:
    """What each stage did and how long it took, for the table at the end."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        started = time.monotonic()
        done: list[str] = []
        yield done.append
        self.rows.append((name, done[0] if done else "", time.monotonic() - started))
        say(f"[bold]{name:>8}[/]  {self.rows[-1][1]}  ({self.rows[-1][2]:.1f} s)")


def run(*overrides: str) -> RunResult:
    """One contest round from hydra overrides (see harness.run)."""
    return run_config(compose(overrides))
