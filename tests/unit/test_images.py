import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from pool_folders import picture

from harness import images

NOISE = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def frames(format: str) -> bytes:
    first, second = Image.fromarray(NOISE).convert("RGB"), Image.fromarray(255 - NOISE).convert("RGB")
    return saved(first, format, save_all=True, append_images=[second])


def deep_rgb_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + NOISE[:4, :12].astype(">u2").tobytes()[:24] for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb() -> bytes:
    return saved(Image.new("1", (20_000, 20_000)), "PNG")


@pytest.mark.parametrize(
    "content",
    [
        picture(1), picture(1, format="PNG"), picture(1, format="WEBP"), picture(1, format="PNG", mode="RGBA"),
        picture(1, mode="L"), saved(Image.fromarray(NOISE).convert("P"), "PNG"),
    ],
)  # fmt: skip
def test_good_pictures(content: bytes) -> None:
    assert images.fault(content) is None
    assert images.decode(content).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image of zero bytes"),
        (b"<html>not found</html>", "image does not decode"),
        (picture(1)[:-200], "image does not decode"),
        (picture(1, format="PNG")[:-200], "image does not decode"),
        (picture(1)[:100], "image does not decode"),
        (frames("GIF"), "image is animated"),
        (frames("WEBP"), "image is animated"),
        (frames("PNG"), "image is animated"),
        (saved(Image.fromarray(NOISE.astype(np.uint16) * 257), "PNG"), "image has 16 bits a channel"),
        (deep_rgb_png(), "image has 16 bits a channel"),
        (picture(1, mode="CMYK"), "image is not RGB (CMYK or LAB)"),
        (bomb(), "image is a decompression bomb"),
    ],
)
def test_unusable_pictures(content: bytes, reason: str) -> None:
    assert images.fault(content) == reason


@pytest.mark.parametrize("format", ["EPS", "PDF", "SGI"])
def test_decoders_that_run_programs_or_are_hardly_used_are_not_asked(format: str) -> None:
    content = saved(Image.fromarray(NOISE), format)
    assert images.fault(content) == "image does not decode"
    with pytest.raises(UnidentifiedImageError):
        images.decode(content)


def test_garbage_never_raises() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        good = picture(3, format=kind)
        for _ in range(60):
            bad = bytearray(good)
            for at in rng.integers(0, len(bad), 12):
                bad[at] = rng.integers(0, 256)
            reason = images.fault(bytes(bad))
            if reason is None:
                images.decode(bytes(bad))


@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 60, "progressive": True}, {"subsampling": 0}])
def test_a_cut_jpeg_is_found_wherever_decoding_finds_it(options: dict[str, object]) -> None:
    good = picture(5, size=70, **options)
    for size in range(0, len(good), 97):
        try:
            images.decode(good[:size])
        except OSError:
            assert images.fault(good[:size]) in ("image does not decode", "image of zero bytes")
        else:
            assert images.fault(good[:size]) is None
