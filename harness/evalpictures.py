"""The pictures of the evaluation sets, as they are looked for in a pool, with controls planted among them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from harness import images
from harness.errors import ArtifactError
from harness.eval import data
from harness.tars import IMAGE_EXTENSIONS, BrokenTarError, Reader, members, split_name

CONTROLS_EVERY = 50
"""One in so many evaluation pictures is planted as a control, at least one a tar."""
_FLAT = 4
"""A picture whose grey levels vary less than this means nothing to a hash or a model."""


class EvalPicture(NamedTuple):
    """One picture of a task."""

    key: str
    picture: Image.Image
    control: Image.Image | None
    """The same picture as it may come back from the web, where it is planted as a control."""


def eval_tars(data_dir: str) -> list[str]:
    """The tars of all tasks in `data_dir`, as the evaluation lists them; ArtifactError if there are none."""
    parts = [path for name in ("test", "images") for path in Path(data_dir).glob(f"wds_*/{name}") if path.is_dir()]
    found = [str(path) for part in parts for path in data.shards(part)]
    if not found:
        raise ArtifactError(f"{data_dir}: holds no wds_*/test/*.tar; see harness.download_tasks")
    return sorted(found)


def task_of(tar: str) -> str:
    """Name of the folder of the task that a tar belongs to."""
    return Path(tar).parts[-3]


def eval_pictures(tar: str) -> Iterator[EvalPicture]:
    """The pictures of one tar but flat ones, in order. ArtifactError if the tar or a picture is broken."""
    number = 0
    with Reader(tar) as reader:
        try:
            for member in members(reader):
                key, extension = split_name(member.name)
                if extension not in IMAGE_EXTENSIONS:
                    continue
                picture = images.decode(reader.exactly(member.content, member.size))
                if np.asarray(picture.convert("L"), dtype=np.float32).std() < _FLAT:
                    continue
                yield EvalPicture(key, picture, disguised(picture) if number % CONTROLS_EVERY == 0 else None)
                number += 1
        except (BrokenTarError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise ArtifactError(f"{tar}: not a readable tar of pictures ({error}); download the task again") from error


def disguised(picture: Image.Image) -> Image.Image:
    """The picture as it may come back from the web: smaller, and compressed hard."""
    small = picture.resize(
        (max(picture.width * 7 // 10, 8), max(picture.height * 7 // 10, 8)), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70)
    return images.decode(buffer.getvalue())
