"""A clip that is a folder of pictures, one a frame, as many data sets keep them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.media.image import open_image
from mmalign.records import MediaError

RATE = 1.0
"""Frames a second."""

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts frame 2 before frame 10."""
    parts = re.split(r"([0-9]+)", name)  # every other one is a number
    return [(place % 2 == 1, int(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


def is_folder(path: Path) -> bool:
    """Whether a clip is a folder. Raises MediaError where that cannot be told: a name that is too long, say."""
    try:
        return path.is_dir()
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror}): {path}") from None


def check_inside(path: Path, root: Path) -> None:
    """Refuse a folder of pictures one of which lies outside of ``root``, behind a link.

    Raises:
        MediaError: with reason outside; or as `pictures`.
    """
    if not is_folder(path):
        return
    root = root.resolve()
    for picture in pictures(path):
        if not picture.resolve().is_relative_to(root):
            raise MediaError(f"leads out of the media root {root}: {picture}", reason="outside")


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, in the natural order of their names; hidden files are none.

    Raises:
        MediaError: with reason missing: no folder, or none with a picture.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != "."]
    except OSError as error:
        raise MediaError(f"no folder of frames ({error.strerror}): {folder}", reason="missing") from None
    if not found:
        raise MediaError(f"a folder without a picture: {folder}", reason="missing")
    return sorted(found, key=lambda path: natural(path.name))


class Frames:
    """The frames of a folder; the same as of a file, see `mmalign.media.files`."""

    def __init__(self, folder: Path) -> None:
        self._paths = pictures(folder)
        self._size = open_image(self._paths[0]).size
        self.times = np.arange(len(self._paths)) / RATE
        self.duration = len(self._paths) / RATE
        self.size = self._size

    def frames(self, indices: Sequence[int] | None, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
        for place in range(len(self._paths)) if indices is None else indices:
            image = open_image(self._paths[place])
            if image.size != self._size:
                raise MediaError(
                    f"is {image.width} x {image.height} pixels, the first frame {self._size[0]} x {self._size[1]}: "
                    f"make them equal: {self._paths[place]}"
                )
            yield image if size in (None, image.size) else image.resize(size, Image.Resampling.BICUBIC)
