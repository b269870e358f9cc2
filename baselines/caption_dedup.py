"""At most so many pairs with the same caption, the best of them by score: boilerplate and file names thinned out.

Cost: one pass over the captions, some microseconds each; about 60 bytes a row in memory.
"""

from functools import partial
from hashlib import blake2b
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from baselines import _draw, _scores
from harness import Pool, SelectionContext
from harness.uid import Uids
from harness.words import Words

ROW = np.dtype([("caption", np.uint64), ("score", np.float32)])


def select(
    pool: Pool,
    /,
    *,
    ctx: SelectionContext,
    same: Literal["exact", "words"] = "exact",
    most: Annotated[int, Field(gt=0)] = 1,
    score: str = "clip_l14_similarity_score",
) -> Uids:
    """Keep, of the pairs with the same caption, the `most` with the highest score; that fixes the size.

    `same`: letter for letter (exact), or in lower case without punctuation (words). `score`: a metadata column; of
    equal scores the first in pool order counts. All empty captions are the same.
    """
    parts = pool.map(partial(_rows, same, score), columns=["text", score], rows=1 << 15, name="captions")
    rows = np.concatenate([np.empty(0, ROW), *parts])
    different, group = np.unique(rows["caption"], return_inverse=True)
    return pool.take(_draw.top_of_groups(rows["score"], group, np.full(len(different), most)))


def _rows(same: str, score: str, table: Any) -> npt.NDArray[Any]:
    """(rows,) of dtype ROW: a 64-bit hash of the caption (two of a billion different ones meet with chance 0.03)."""
    captions = table["text"].to_pylist()
    texts = Words.of(captions).text.split(b"\n") if same == "words" else [caption.encode() for caption in captions]
    found = np.empty(len(captions), ROW)
    digests = (blake2b(text, digest_size=8).digest() for text in texts[: len(captions)])
    found["caption"] = np.frombuffer(b"".join(digests), "<u8")
    found["score"] = _scores.numbers(score, table)
    return found
