"""Blurring of faces, as DataComp's download does it: a Gaussian over each stated box and a soft edge.

The formula is that of img2dataset 1.40, the version DataComp was made with (sigma a tenth of the largest box, boxes
grown by a tenth); boxes that reach over the picture's edge are cut there, where that version left them sharp.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from harness import images

WEBP_QUALITY = 100
"""A blurred picture is encoded anew, once, with as little loss as WebP allows short of lossless."""

Box = Sequence[float]
"""[x_min, y_min, x_max, y_max] as fractions of width and height."""


def blur(pixels: npt.NDArray[np.uint8], boxes: Sequence[Box]) -> npt.NDArray[np.uint8]:
    """`pixels` (H, W, 3) with the content of `boxes` blurred; no boxes, no change."""
    height, width = pixels.shape[:2]
    corners = [(int(b[0] * width), int(b[1] * height), int(b[2] * width), int(b[3] * height)) for b in boxes]
    sides = [max(right - left, bottom - top) for left, top, right, bottom in corners]
    if not sides or max(sides) <= 0:
        return pixels
    mask = np.zeros((height, width), dtype=np.float32)
    for (left, top, right, bottom), side in zip(corners, sides, strict=True):
        grown = 0.1 * side
        mask[max(int(top - grown), 0) : max(int(bottom + grown), 0),
             max(int(left - grown), 0) : max(int(right + grown), 0)] = 1  # fmt: skip
    sigma = 0.1 * max(sides)
    radius = math.ceil(4 * sigma)
    sharp = pixels.astype(np.float32) / 255
    soft = gaussian_filter(sharp, (sigma, sigma, 0), radius=(radius, radius, 0), mode="mirror")
    weight = gaussian_filter(mask, sigma, radius=radius, mode="mirror")[:, :, None]
    mixed: npt.NDArray[np.float32] = sharp * (1 - weight) + soft * weight
    return np.clip(mixed * 255, 0, 255).astype(np.uint8)


def blurred_image(content: bytes, boxes: Sequence[Box]) -> bytes:
    """The picture in `content` with `boxes` blurred, as WebP."""
    pixels = blur(np.asarray(images.decode(content)), boxes)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()
