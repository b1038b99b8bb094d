"""Pictures as data sets hold them: odd modes, turned, cut short, far too large, or no picture at all."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.media import MAX_SIDE, MediaError, image, open_image


def picture(width: int = 40, height: int = 20) -> Image.Image:
    """Noise, so that no format makes the file too short to be cut in the middle."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_that_claims(width: int, height: int) -> bytes:
    """A header of any size with no pixels behind it: what it claims must be enough to refuse it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def saved(path: Path, of: Image.Image | None = None, **options: object) -> Path:
    (of or picture()).save(path, **options)
    return path


def refused(path: Path) -> MediaError:
    with pytest.raises(MediaError) as caught:
        open_image(path)
    assert path.name in str(caught.value)
    return caught.value


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff", "webp", "jpg", "gif"])
def test_every_format_opens_as_rgb(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    opened = open_image(saved(tmp_path / f"a.{suffix}", **options))
    assert (opened.mode, opened.size) == ("RGB", (40, 20))
    if suffix not in ("jpg", "gif"):
        assert opened.tobytes() == picture().tobytes()


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff", "webp", "jpg", "gif"])
def test_half_a_file_is_truncated(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if suffix in ("jpg", "gif"):  # their header and tables are half of so small a file
        saved(path, picture(200, 200))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(path).reason == "truncated"


@pytest.mark.parametrize("size", [(30_000, 20), (20, MAX_SIDE + 1), (16_000, 16_000), (60_000, 60_000)])
def test_too_large_is_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(png_that_claims(*size))
    assert refused(path).reason == "too_large"


def test_the_largest_side_is_allowed(tmp_path: Path) -> None:
    assert open_image(saved(tmp_path / "a.png", Image.new("L", (MAX_SIDE, 1)))).size == (MAX_SIDE, 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.jpg", b"<html>404 Not Found</html>", "unreadable"),
        ("zero.jpg", b"", "truncated"),
        ("start.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "truncated"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).reason == reason


def test_what_is_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.png").reason == "missing"
    assert refused(saved(tmp_path / "a.png") / "b.png").reason == "missing"
    assert refused(tmp_path).reason == "unreadable"
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    assert refused(tmp_path / "pipe.png").reason == "unreadable"
    with pytest.raises(MediaError, match="cannot be read"):
        open_image("a\0b.png")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("CMYK", "tiff"),
        ("CMYK", "jpg"),
    ],
)
def test_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    opened = open_image(saved(tmp_path / f"a.{suffix}", white))
    assert opened.mode == "RGB"
    assert opened.getpixel((3, 3)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[0, 32_768, 65_535]], dtype=np.uint16))
    for suffix in ("png", "tiff"):
        opened = open_image(saved(tmp_path / f"a.{suffix}", grey))
        assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_transparent_pixels_are_white_whatever_colour_lies_under_them(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 1, 2, 3])
    paths = [
        saved(tmp_path / "a.png", Image.new("RGBA", (4, 4), (255, 0, 0, 0))),
        saved(tmp_path / "b.png", Image.new("LA", (4, 4), (0, 0))),
        saved(tmp_path / "c.png", palette, transparency=0),
    ]
    assert [open_image(path).getpixel((0, 0)) for path in paths] == [(255, 255, 255)] * 3


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned a quarter
    opened = open_image(saved(tmp_path / "a.jpg", exif=exif))
    assert opened.size == (20, 40)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    path = saved(tmp_path / "a.gif", red, save_all=True, append_images=[blue])
    assert open_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_the_picture_outlives_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    opened = open_image(path)
    path.unlink()
    assert opened.tobytes() == picture().tobytes()


def test_the_error_survives_a_worker_process() -> None:
    error = MediaError("cut short", reason="truncated", file="pairs.jsonl", line=3)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reason) == ("pairs.jsonl:3: cut short", "truncated")


def test_the_limit_on_the_area_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", 40 * 20 - 1)
    assert refused(saved(tmp_path / "a.png")).reason == "too_large"
