"""The training transform: RandomResizedCrop to the model's size, bicubic with antialias, RGB, no flip.

The crop of a sample is a function of (seed, position of the sample in the run), drawn as torchvision's
RandomResizedCrop draws it but from words 24p to 24p+23 of one Philox stream. Resizing is torch's on 8-bit values,
several times as fast as Pillow's and at most 2 of 255 levels away from it.
"""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from harness import images
from harness.model import MEAN, STD
from harness.order import raw

SCALE = (0.9, 1.0)
"""Share of the picture's area that a crop covers."""
RATIO = (3 / 4, 4 / 3)
TRIES = 10
WORDS = 24
"""Random words a sample owns: area and ratio for each of TRIES tries, top and left of the crop, two to spare."""


def draws(seed: int, start: int, stop: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape (stop - start, WORDS), of the samples at positions start…stop-1."""
    words = raw((stop - start) * WORDS, what="augment", seed=seed, start=start * WORDS // 4)
    uniform: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform.reshape(-1, WORDS)


def crop_box(uniform: Sequence[float], *, width: int, height: int) -> tuple[int, int, int, int]:
    """Top, left, height, width in pixels of the crop of a picture, from its WORDS uniform numbers."""
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for i in range(TRIES):
        area = width * height * (SCALE[0] + (SCALE[1] - SCALE[0]) * uniform[i])
        ratio = math.exp(low + (high - low) * uniform[TRIES + i])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniform[2 * TRIES] * (height - h + 1))
            left = int(uniform[2 * TRIES + 1] * (width - w + 1))
            return top, left, h, w
    w, h = width, height
    if width / height < RATIO[0]:
        h = round(w / RATIO[0])
    elif width / height > RATIO[1]:
        w = round(h * RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def decode(content: bytes) -> torch.Tensor:
    """Picture (3, H, W), uint8 RGB, of an encoded file: Pillow's pixels.

    Raises what Pillow raises if it cannot be read.
    """
    if content[:2] == b"\xff\xd8":
        # The same libjpeg-turbo as Pillow's, without its overhead. What it refuses (CMYK) or warns of goes to Pillow.
        with contextlib.suppress(ValueError):
            return torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB")).permute(2, 0, 1)
    return torch.from_numpy(np.array(images.decode(content))).permute(2, 0, 1)


def crop(image: torch.Tensor, uniform: Sequence[float], size: int) -> torch.Tensor:
    """The training crop (3, size, size), uint8, of a picture (3, H, W), uint8."""
    height, width = image.shape[1:]
    top, left, h, w = crop_box(uniform, width=width, height=height)
    part = image[None, :, top : top + h, left : left + w]
    if h - size > 2 * max(w - size, 0):
        part = _resize(part, size, w)  # a tall picture is first shrunk in height, as Pillow 13 does
    return _resize(part, size, size)[0]


def _resize(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    resized: torch.Tensor = torch.nn.functional.interpolate(pictures, (height, width), mode="bicubic", antialias=True)
    return resized


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """Model input, float32, of pictures (N, 3, S, S), uint8: to [0, 1], minus OpenAI's mean, over its deviation."""
    mean = torch.tensor(MEAN, device=pictures.device).view(3, 1, 1)
    std = torch.tensor(STD, device=pictures.device).view(3, 1, 1)
    return pictures.float().div_(255).sub_(mean).div_(std)
