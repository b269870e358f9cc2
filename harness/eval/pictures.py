"""Encoded picture to the uint8 square that a model sees, pixel for pixel as open_clip's transform for evaluation."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.images import BROKEN


class BrokenPictureError(Exception):
    """Bytes that do not decode; the message is the reason."""


def square(content: bytes, size: int, *, rgb_first: bool) -> npt.NDArray[np.uint8]:
    """Array (size, size, 3): shortest side to `size` (bicubic, antialias), centre crop, RGB.

    `rgb_first` converts to RGB before resizing, as the reference does for webdataset tasks; otherwise the picture is
    resized in its own mode, as it does for retrieval and WinoGAViL. Raises BrokenPictureError.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            image: Image.Image = opened.convert("RGB") if rgb_first else opened
            width, height = image.size
            short, long = min(width, height), max(width, height)
            if short != size:
                long = int(size * long / short)
                image = image.resize((size, long) if width <= height else (long, size), Image.Resampling.BICUBIC)
            width, height = image.size
            if (width, height) != (size, size):
                left, top = round((width - size) / 2.0), round((height - size) / 2.0)
                image = image.crop((left, top, left + size, top + size))
            return np.asarray(image.convert("RGB"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise BrokenPictureError(str(error) or type(error).__name__) from error
