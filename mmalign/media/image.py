"""Open a picture from an untrusted data set: RGB and upright, or a MediaError that says why not."""

from __future__ import annotations

import stat
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from mmalign.records import MediaError

MAX_SIDE = 16_384  # pixels
MAX_PIXELS = 100_000_000

# Only formats decoded inside Pillow: others (EPS) hand the file to outside programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def open_image(path: str | Path) -> Image.Image:
    """The picture in mode RGB, turned upright by its EXIF orientation, on white where it is transparent.

    Of an animation the first frame; 16-bit grey is scaled to 8 bits. The size is read from the header and
    refused above ``MAX_SIDE`` on a side or ``MAX_PIXELS`` in all, before anything is decoded.

    Raises:
        MediaError: with reason missing, unreadable (not a picture, or no permission), truncated (a sound
            header, but the pixels are cut short or broken) or too_large.
    """
    path = Path(path)
    check_file(path)
    try:
        image = Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(path, f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise MediaError(f"not a picture ({', '.join(FORMATS)} are read): {path}") from None
    except OSError as error:
        reason = "unreadable" if error.errno else "truncated"  # without a number it is Pillow's own
        raise MediaError(f"cannot be read ({error.strerror or error}): {path}", reason=reason) from None
    except Exception as error:  # Pillow's parsers let struct.error and others through on bad headers
        raise MediaError(f"has a broken header ({error}): {path}") from None
    with image:
        check_size(path, *image.size)
        try:
            image.load()
            return _to_rgb(_upright(image))
        except Exception as error:  # the same of its decoders
            raise MediaError(f"cut short or broken ({error}): {path}", reason="truncated") from None


def check_file(path: Path) -> None:
    """Refuse what is no regular file before it is opened: opening a pipe would wait for ever."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(f"no such file: {path}", reason="missing") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise MediaError(f"cannot be read ({error}): {path}") from None
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"is a folder or a device, expected a file: {path}")
    if status.st_size == 0:
        raise MediaError(f"is an empty file (0 bytes): {path}", reason="truncated")


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse more than ``MAX_SIDE`` or ``MAX_PIXELS``."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _too_large(path, f"{width} x {height} pixels")


def _too_large(path: Path, size: str) -> MediaError:
    return MediaError(
        f"too large, {size} (at most {MAX_SIDE:,} on a side and {MAX_PIXELS:,} in all), make it smaller: {path}",
        reason="too_large",
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF carries no orientation; the pixels are sound
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert would clip at 255
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
