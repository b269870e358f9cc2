"""Captions that say enough."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness import Pool, SelectionContext
from sample_methods._words import words


def select(pool: Pool, /, *, ctx: SelectionContext, words_at_least: Annotated[int, Field(ge=1)] = 5) -> Any:
    """Keep captions of at least so many words."""

    def keep(table: Any) -> npt.NDArray[np.bool_]:
        return np.array([words(caption) >= words_at_least for caption in table["text"].to_pylist()])

    return pool.filter(keep, columns=["text"])
