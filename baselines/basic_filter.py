"""Plain rules on language, caption and size (DataComp, baselines/apply_filter.py, basic_filter)."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baselines import _language
from harness import Pool, SelectionContext
from harness.uid import Uids


def select(pool: Pool, /, *, ctx: SelectionContext) -> Uids:
    """English captions of more than 2 words and 5 characters; sides of at least 200, at most 3 to 1."""
    ctx.remark(_language.remark())
    return pool.filter(_keep, columns=["text", "original_width", "original_height"])


def _keep(table: pa.Table) -> npt.NDArray[np.bool_]:
    captions = table["text"].to_pylist()
    long_enough = (len(caption) > 5 and len(caption.split()) > 2 for caption in captions)
    keep = sizes_fit(table) & np.fromiter(long_enough, bool, len(captions))
    # Language identification is the slow part, so it sees only what the other rules leave.
    left = np.flatnonzero(keep)
    keep[left] = _language.is_english([captions[row] for row in left])
    return np.asarray(keep)


def sizes_fit(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Shorter side at least 200 pixels, longer side at most 3 times it; a size that is null never fits."""
    width = table["original_width"].to_numpy().astype(np.float64)
    height = table["original_height"].to_numpy().astype(np.float64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    # longer / shorter as the reference divides; at 200 or more there is nothing to divide by zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((shorter >= 200) & (longer / shorter <= 3.0))
