"""Thumbnails of pairs of a sealed pool, as data URIs that a page can hold."""

import base64
import io

import numpy as np

from harness import images, uid
from harness.pool.sealed import SealedPool
from harness.reshard import locate
from harness.subset import Subset
from harness.tars import Reader
from harness.uid import Uids

SIDE = 160
"""Longer side of a thumbnail in pixels."""
_QUALITY = 78


def thumbnails(sealed: SealedPool, uids: Uids) -> dict[str, str]:
    """A JPEG data URI for each of `uids` (n,), by its hex; each tar that holds one is opened once."""
    if not len(uids):
        return {}
    rows, _, _ = locate(sealed, Subset.of(uids))
    shards = np.searchsorted(sealed.borders, rows, side="right") - 1
    found: dict[str, str] = {}
    for shard in np.unique(shards).tolist():
        index = sealed.index(shard)
        with Reader(sealed.shards[shard]) as reader:
            for row in rows[shards == shard].tolist():
                entry = index[row - sealed.borders[shard]]
                content = reader.exactly(int(entry["image"]), int(entry["image_size"]))
                found[uid.to_hex(np.asarray(sealed.uids[row : row + 1]))[0]] = data_uri(content)
    return found


def data_uri(content: bytes) -> str:
    """A picture, made small, as the address of itself."""
    picture = images.decode(content)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
