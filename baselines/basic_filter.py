"""Plain rules on language, caption and size (DataComp, baselines/apply_filter.py, basic_filter)."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from harness import Pool, SelectionContext, language
from harness.uid import Uids

SHORTEST = 200
"""Pixels of a side."""


def select(pool: Pool, /, *, ctx: SelectionContext) -> Uids:
    """English captions of more than 2 words and 5 characters; sides of at least 200, at most 3 to 1."""
    identifier = language.fasttext()
    ctx.remark(identifier.remark)
    return pool.filter(
        partial(_keep, identifier.model),
        columns=["text", "original_width", "original_height"],
        within={"original_width": (SHORTEST, None), "original_height": (SHORTEST, None)},
        name="basic_filter",
    )


def _keep(model: str, table: pa.Table) -> npt.NDArray[np.bool_]:
    captions = table["text"].to_pylist()
    return language.and_english(sizes_fit(table) & long_enough(captions), captions, model)


def long_enough(captions: list[str]) -> npt.NDArray[np.bool_]:
    """More than 5 characters and more than 2 words between white space."""
    fits = (len(caption) > 5 and len(caption.split(None, 2)) > 2 for caption in captions)
    return np.fromiter(fits, bool, len(captions))


def sizes_fit(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Shorter side at least 200 pixels, longer side at most 3 times it; a size that is null never fits."""
    width = table["original_width"].to_numpy().astype(np.float64)
    height = table["original_height"].to_numpy().astype(np.float64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    with np.errstate(divide="ignore", invalid="ignore"):
        fits: npt.NDArray[np.bool_] = (shorter >= SHORTEST) & (longer / shorter <= 3.0)
    return fits
