"""What a person sees while tasks are evaluated: a table on a terminal, a line a task elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from harness.errors import HarnessError
from harness.eval.suite import Task
from harness.progress import say
from harness.records import Record


class Board:
    """Keeps and says what becomes of each task."""

    def __init__(self, tasks: Sequence[Task], records: dict[str, Record], failed: dict[str, str]) -> None:
        self.tasks = {task.key: task for task in tasks}
        self.records, self.failed = records, failed

    def __enter__(self) -> Self:
        return self

    def running(self, key: str, samples: int) -> None:
        """`samples` more of the task are under way."""

    def done(self, key: str, record: Record) -> None:
        """The task has its record."""
        self.records[key] = record
        score, chance = record.payload["score"], self.tasks[key].chance
        shown = "reported" if score is None else f"{score:.3f}"
        say(f"{key:50} {shown:>8}  {'' if chance is None else f'chance {chance:.3f}'}")

    def fail(self, key: str, error: HarnessError) -> None:
        """The task cannot be evaluated."""
        self.failed[key] = str(error)
        say(f"{key:50}   failed  {error}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""
