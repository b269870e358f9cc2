"""What a person sees while tasks are evaluated: a live table on a terminal, elsewhere a line for each that ends."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table

from harness.errors import HarnessError
from harness.eval.suite import Task
from harness.progress import LINE_EVERY, console, say
from harness.records import Record


class Board:
    """Keeps and shows what becomes of each task: done with score and chance, running, to come, failed."""

    def __init__(self, tasks: Sequence[Task], records: dict[str, Record], failed: dict[str, str]) -> None:
        self.tasks = {task.key: task for task in tasks}
        self.records, self.failed = records, failed
        self._read: dict[str, int] = {}
        self._started = self._said = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._show()
        return self

    def running(self, key: str, samples: int) -> None:
        """`samples` more of the task have been read."""
        self._read[key] = self._read.get(key, 0) + samples
        if self._live is None and time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            say(f"eval: {self._progress()}")
        self._show()

    def done(self, key: str, record: Record) -> None:
        """The task has its record."""
        self.records[key] = record
        self._line(key)

    def fail(self, key: str, error: HarnessError) -> None:
        """The task cannot be evaluated."""
        self.failed[key] = str(error)
        self._line(key)

    def _line(self, key: str) -> None:
        if self._live is None:
            state, score, chance = self._row(key)
            say(f"{key:52}{score:>7}  {f'chance {chance}' if chance else '':14}{state}")
        self._show()

    def _row(self, key: str) -> tuple[str, str, str]:
        task = self.tasks[key]
        chance = "" if task.chance is None else f"{task.chance:.3f}"
        if key in self.failed:
            return f"failed: {self.failed[key]}", "", chance
        if key in self.records:
            score = self.records[key].payload["score"]
            return ("done", f"{score:.3f}", chance) if score is not None else ("reported only", "", chance)
        read = self._read.get(key)
        return f"{read:,} of {task.samples:,}" if read else "to come", "", chance

    def _progress(self) -> str:
        read = sum(self._read.values())
        rate = read / max(time.monotonic() - self._started, 1e-9)
        going = [task for key, task in self.tasks.items() if key not in self.records and key not in self.failed]
        # WinoGAViL's pictures are read, too, and are no samples of it.
        left = sum(max(task.samples - self._read.get(task.key, 0), 0) for task in going) / max(rate, 1e-9)
        ended = len(self.tasks) - len(going)
        return f"{ended} of {len(self.tasks)} tasks, {read:,} samples, {rate:,.0f}/s, {left:,.0f} s left"

    def _visible(self) -> list[str]:
        """As many tasks as fit, around the first that has not ended."""
        keys, room = list(self.tasks), max(console.size.height - 4, 5)
        at = next((n for n, key in enumerate(keys) if key not in self.records and key not in self.failed), len(keys))
        start = max(0, min(at - room // 2, len(keys) - room))
        return keys[start : start + room]

    def _show(self) -> None:
        if self._live is None:
            return
        table = Table(box=None, caption=self._progress(), caption_justify="left", pad_edge=False)
        for name in ("task", "score", "chance", "state"):
            table.add_column(name, justify="right" if name in ("score", "chance") else "left", no_wrap=True)
        for key in self._visible():
            state, score, chance = self._row(key)
            style = "red" if key in self.failed else "dim" if state == "to come" else None
            table.add_row(key, score, chance, state, style=style)
        self._live.update(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
