"""Crops are drawn as torchvision draws them, and pixels are Pillow's."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from harness.train import augment


def jpeg(width: int, height: int, *, seed: int = 0, **options: object) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(coarse).astype(int) + rng.integers(-20, 20, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_a_crop_depends_on_seed_and_position_alone() -> None:
    together = augment.draws(3, 10, 20)
    np.testing.assert_array_equal(augment.draws(3, 14, 17), together[4:7])
    assert not np.array_equal(augment.draws(4, 10, 20), together)
    assert together.min() >= 0
    assert together.max() < 1


@pytest.mark.parametrize(("width", "height"), [(512, 341), (40, 36), (33, 120), (300, 20)])
def test_crops_are_distributed_as_torchvisions(width: int, height: int) -> None:
    n = 1500
    ours = np.array([augment.crop_box(u, width=width, height=height) for u in augment.draws(0, 0, n).tolist()])
    transform = RandomResizedCrop(224, scale=augment.SCALE)
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    theirs = np.array([transform.get_params(image, list(augment.SCALE), list(augment.RATIO)) for _ in range(n)])
    for column in range(4):
        a, b = ours[:, column], theirs[:, column]
        spread = np.sqrt((a.var() + b.var()) / n) + 1e-9
        assert abs(a.mean() - b.mean()) < 5 * spread
        assert abs(a.std() - b.std()) < 0.15 * (b.std() + 0.1)
    assert (ours[:, 0] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize(
    ("width", "height", "size", "options"),
    [
        (512, 341, 224, {"quality": 95}),
        (341, 512, 224, {"quality": 75, "subsampling": 2}),
        (513, 301, 224, {"quality": 90, "progressive": True}),
        (37, 33, 32, {"quality": 90}),
        (36, 44, 32, {"quality": 85, "subsampling": 0}),
    ],
)
def test_pixels_are_pillows(width: int, height: int, size: int, options: dict[str, object]) -> None:
    worst, near = 0, []
    for seed, uniform in enumerate(augment.draws(0, 0, 8).tolist()):
        content = jpeg(width, height, seed=seed, **options)
        top, left, h, w = augment.crop_box(uniform, width=width, height=height)
        expected = Image.open(io.BytesIO(content)).convert("RGB").crop((left, top, left + w, top + h))
        pixels = np.asarray(expected.resize((size, size), Image.BICUBIC)).astype(int)
        ours = augment.crop(augment.decode(content), uniform, size).permute(1, 2, 0).numpy().astype(int)
        difference = np.abs(ours - pixels)
        worst = max(worst, int(difference.max()))
        near.append((difference <= 1).mean())
    assert worst <= 2
    assert np.mean(near) >= 0.999


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_other_pictures_are_read_as_pillow_reads_them(kind: str, mode: str) -> None:
    image = Image.open(io.BytesIO(jpeg(30, 20))).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    np.testing.assert_array_equal(augment.decode(buffer.getvalue()).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs(mode: str) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(30, 20))).convert(mode).save(buffer, "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")).astype(int)
    ours = augment.decode(buffer.getvalue()).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - expected).max() <= 1


@pytest.mark.parametrize("content", [b"", b"\xff\xd8garbage", b"GIF9"])
def test_garbage_is_refused(content: bytes) -> None:
    with pytest.raises((OSError, ValueError)):
        augment.decode(content)


def test_normalising_is_torchvisions() -> None:
    from torchvision.transforms.functional import normalize

    from harness.model import MEAN, STD

    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(augment.normalise(images), normalize(images / 255, MEAN, STD), rtol=0, atol=0)
