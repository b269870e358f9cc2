"""Progress of long steps: a bar on a terminal, a line every ten seconds elsewhere, both with rate and time left."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

console = Console(stderr=True)
LINE_EVERY = 10.0


class Progress:
    """Counts `total` units of work: `with Progress("train", total=n, unit="samples") as bar: bar.advance(256)`."""

    def __init__(self, name: str, *, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.skipped = 0, 0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self.started = self._said = time.monotonic()
        if sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, rate="", note="")
        return self

    @property
    def rate(self) -> float:
        """Units a second since the start, work that was already done before not counted."""
        return (self.done - self.skipped) / max(time.monotonic() - self.started, 1e-9)

    @property
    def _rate(self) -> str:
        return f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"

    def skip(self, units: int) -> None:
        """Count `units` that an earlier run had finished."""
        self.skipped += units
        self.advance(units)

    def advance(self, units: int = 1, *, note: str = "") -> None:
        """Count `units` more; `note` stands at the end of the line (a loss, a success rate)."""
        self.done += units
        if self._bar is not None:
            self._bar.update(self._task, advance=units, rate=f"{self._rate} {self.unit}/s", note=note)
        elif time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            left = (self.total - self.done) / max(self.rate, 1e-9)
            console.print(
                f"{self.name}: {self.done:,} of {self.total:,} {self.unit}, {self._rate}/s, {left:,.0f} s left {note}",
                highlight=False,
                soft_wrap=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def say(text: str) -> None:
    """One line for the person who watches, on standard error."""
    console.print(text, highlight=False, soft_wrap=True)
