"""Pictures as they lie in a pool: decoded, or the reason why they cannot be used.

A pool's picture must mean the same pixels to every decoder, so pictures whose 8-bit RGB values are a matter of
taste (16 bits a channel, CMYK, several frames) are as unusable as broken ones.
"""

import io
import struct
import warnings
import zlib

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64 << 20
"""Larger pictures are decompression bombs: DataComp's are at most 512 pixels wide or were never enlarged."""

BROKEN = (
    UnidentifiedImageError,
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
    OverflowError,
    MemoryError,
    RuntimeError,
    AttributeError,
    KeyError,
    ZeroDivisionError,
)
"""What Pillow's plug-ins raise on garbage; all mean the same."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What Pillow is let loose on: other plug-ins run programs (EPS) or are hardly ever used, so hardly ever tested."""

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def decode(content: bytes) -> Image.Image:
    """The picture in `content` as 8-bit RGB, its first frame, EXIF rotation not applied.

    Raises whatever Pillow raises for content that is no picture or ends too early; a picture that `seal` let through
    never does.
    """
    return Image.open(io.BytesIO(content), formats=FORMATS).convert("RGB")


def fault(content: bytes) -> str | None:
    """Why the picture in `content` cannot be used, None for a good one; decodes all of it."""
    if not content:
        return "image of zero bytes"
    try:
        with warnings.catch_warnings():
            # Pillow's own limits are a warning and an error at other sizes than ours; odd EXIF is no fault.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            reason = _unusable(picture, content)
            if reason is None:
                # A JPEG an eighth as large takes the same pass over all its bytes, and only skips arithmetic after it.
                picture.draft(None, (1, 1))
                picture.load()
    except Image.DecompressionBombError:
        return "image is a decompression bomb"
    except BROKEN:
        return "image does not decode"
    return reason


def _unusable(picture: Image.Image, content: bytes) -> str | None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        return "image is a decompression bomb"
    if getattr(picture, "n_frames", 1) > 1:
        return "image is animated"
    # Pillow gives a PNG of 16 bits a channel as 8-bit RGB: only its header tells (byte 24).
    if picture.mode in _DEEP or (picture.format == "PNG" and content[24] > 8):
        return "image has 16 bits a channel"
    if picture.mode in ("CMYK", "YCCK", "LAB"):
        return "image is not RGB (CMYK or LAB)"
    return None
