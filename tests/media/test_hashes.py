"""Hashes of pictures: equal for the same picture, near for a nearly equal one, far for others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mmalign.media.hashes import DHASH_BITS, content_hash, correlation, dhash, hamming, thumbnail


def picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Smooth noise, as photographs are smooth."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, format: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(buffer)


def test_content_hash_sees_pixels_and_size_alone() -> None:
    image = picture(0)
    same = [compressed(image, "PNG"), compressed(image, "BMP"), compressed(image, "WEBP", lossless=True),
            image.convert("RGBA")]  # fmt: skip
    assert {content_hash(other) for other in same} == {content_hash(image)}
    assert len(content_hash(image)) == 32 and int(content_hash(image), 16)
    pixels = np.array(image)
    pixels[3, 4, 1] ^= 1
    turned = Image.frombytes("RGB", (64, 96), image.tobytes())  # the same bytes in another shape
    for other in (Image.fromarray(pixels), turned, compressed(image, "JPEG", quality=95)):
        assert content_hash(other) != content_hash(image)


def test_dhash_compares_neighbours_row_by_row() -> None:
    grey = np.full((8, 9), 100, dtype=np.uint8)
    assert dhash(Image.fromarray(grey)) == 0, "a plain picture"
    grey[0, 1:] = 200  # one step up, at the very first comparison
    grey[7, 8] = 200  # and at the very last
    assert dhash(Image.fromarray(grey)) == 1 << 63 | 1
    rising = np.tile(np.arange(0, 180, 20, dtype=np.uint8), (8, 1))
    assert dhash(Image.fromarray(rising)) == 2**DHASH_BITS - 1


@pytest.mark.parametrize("seed", range(8))
def test_dhash_is_near_for_the_same_and_far_for_another(seed: int) -> None:
    image = picture(seed, (384, 256))
    shrunk, worse = image.resize((123, 82)), compressed(image, "JPEG", quality=30)
    brighter = image.point(lambda value: min(255, value * 9 // 10 + 20))
    for like in (shrunk, worse, brighter):
        assert hamming(dhash(like), dhash(image)) <= 4
        assert correlation(thumbnail(like), thumbnail(image)) > 0.99
    for unlike in (picture(seed + 100, (384, 256)), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        assert hamming(dhash(unlike), dhash(image)) > 16
        assert correlation(thumbnail(unlike), thumbnail(image)) < 0.8


def test_hamming() -> None:
    assert hamming(0, 2**64 - 1) == 64 and hamming(0b1010, 0b1001) == 2 and hamming(7, 7) == 0


def test_plain_pictures_correlate_with_plain_ones_alone() -> None:
    grey, white = (thumbnail(Image.new("RGB", (20, 20), color)) for color in ("grey", "white"))
    assert correlation(grey, white) == 1 and correlation(grey, thumbnail(picture(0))) == 0


def test_drawings_on_one_ground_share_bits_and_are_still_told_apart() -> None:
    first, second = Image.new("RGB", (90, 80), "white"), Image.new("RGB", (90, 80), "white")
    for drawing, colors in ((first, ("black", "grey")), (second, ("grey", "black"))):
        drawing.paste(colors[0], (40, 0, 50, 40))
        drawing.paste(colors[1], (40, 40, 50, 80))
    assert hamming(dhash(first), dhash(second)) <= 4
    assert correlation(thumbnail(first), thumbnail(second)) < 0.9
