"""The filter of LAION-2B-en, redone (DataComp, baselines/apply_filter.py, laion2b)."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness import Pool, SelectionContext, language
from harness.uid import Uids

COLUMN = "clip_b32_similarity_score"
THRESHOLD = 0.28


def select(pool: Pool, /, *, ctx: SelectionContext) -> Uids:
    """English captions by gcld3 (fastText without it) whose B/32 score is at least 0.28."""
    identifier = language.gcld3()
    ctx.remark(identifier.remark)
    keep = partial(_keep, identifier.model)
    return pool.filter(keep, columns=["text"], within={COLUMN: (THRESHOLD, None)}, name="laion2b")


def _keep(model: str, table: pa.Table) -> npt.NDArray[np.bool_]:
    return language.is_english(table["text"].to_pylist(), model)
