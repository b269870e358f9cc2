"""What a method is given beside the pool."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from harness.config import Scale
from harness.executor import Executor, left_behind
from harness.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionContext:
    """The second argument of every method: `select(pool, /, *, ctx, ...)`."""

    rng: np.random.Generator
    """Random numbers seeded by `method.seed`; the only source a method should use."""
    scale: Scale
    """The fixed recipe that the subset will be trained with."""
    samples_seen: int
    """Image-text pairs that training reads in all, repeats counted."""
    scratch: Path
    """A folder of this selection alone: empty, or with what an interrupted run of it left; removed at its end."""
    executor: Executor
    """Runs a function over a list in parallel; `pool.map` and `pool.filter` use it."""
    progress: type[Progress] = Progress
    """`with ctx.progress("what", total=n, unit="rows") as bar: bar.advance(k)` for a long step of one's own."""
    remarks: list[str] = field(default_factory=list)

    def __reduce__(self) -> NoReturn:
        raise left_behind("`ctx`", "take what it needs out of it before, as in `scratch = ctx.scratch`")

    def remark(self, text: str) -> None:
        """Put one sentence into the subset's record: which model or data file was used. Nothing about time or place."""
        if text not in self.remarks:
            self.remarks.append(text)
