"""Captions that name something ImageNet-21k shows (DataComp, baselines/apply_filter.py, text_based)."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baselines import _wordnet
from harness import Pool, SelectionContext, language
from harness.uid import Uids


def select(pool: Pool, /, *, ctx: SelectionContext) -> Uids:
    """English captions with a word whose first WordNet 3.0 synset is one of ImageNet-21k."""
    identifier = language.fasttext()
    ctx.remark(identifier.remark)
    return pool.filter(partial(_keep, identifier.model), columns=["text"], name="text_based")


def _keep(model: str, table: pa.Table) -> npt.NDArray[np.bool_]:
    captions = table["text"].to_pylist()
    named = np.fromiter(map(_wordnet.names_something, captions), bool, len(captions))
    return language.and_english(named, captions, model)
