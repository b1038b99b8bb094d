"""Clips as they lie on the disk: what is in one, some of its frames, or all of them in a stream.

A clip is a video file or a folder of pictures. Files are decoded in a process of their own (`mmalign.media._process`),
so that one that hangs or crashes the decoder is an error like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mmalign.media import folder
from mmalign.media._process import Decoder, decoder
from mmalign.media.image import check_file
from mmalign.records import MediaError


@dataclass(frozen=True, eq=False)
class Probe:
    """What is in a clip.

    Attributes:
        count: frames.
        times: when each is first shown, in seconds from the first, in display order. Shape: (count,), float64.
        duration: seconds, with the last frame's.
        width, height: of a frame that is upright.
    """

    count: int
    times: np.ndarray
    duration: float
    width: int
    height: int


class Source(Protocol):
    """An open clip."""

    times: np.ndarray
    duration: float
    size: tuple[int, int]

    def frames(self, indices: Sequence[int] | None, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
        """Frames at rising places, or all of them, each made ``size`` (width, height) where it is given."""


def check_clip(path: Path) -> None:
    """Refuse what is neither a folder nor a file with something in it. Raises MediaError."""
    if not folder.is_folder(path):
        check_file(path)


@contextmanager
def opened(path: str | Path) -> Iterator[Source]:
    """An open clip. Raises MediaError, which names the file."""
    path = Path(path)
    check_clip(path)
    if folder.is_folder(path):
        yield folder.Frames(path)
        return
    try:
        with decoder() as process:
            yield _File(path, process)
    except MediaError as error:
        if str(path) in error.problem:
            raise
        raise MediaError(f"{error.problem}: {path}", reason=error.reason) from None


def probe(path: str | Path) -> Probe:
    """What is in a clip: all its timestamps are read, next to nothing is decoded.

    Raises:
        MediaError: see `mmalign.media.read_clip`.
    """
    with opened(path) as clip:
        return Probe(len(clip.times), clip.times, clip.duration, *clip.size)


def read_indices(path: str | Path, indices: Sequence[int]) -> tuple[Image.Image, ...]:
    """Frames of a clip by their places in display order, counted from 0, in any order: only what they need is decoded.

    Raises:
        MediaError: as above, and with reason out_of_range: there is no such frame.
    """
    with opened(path) as clip:
        wanted = sorted(set(map(int, indices)))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(clip.times):
            raise MediaError(f"has {len(clip.times)} frames, not those of {wanted}", reason="out_of_range")
        found = dict(zip(wanted, clip.frames(wanted), strict=True))
    return tuple(found[int(place)] for place in indices)


def stream(path: str | Path, size: tuple[int, int] | None = (48, 27), chunk: int = 512) -> Iterator[np.ndarray]:
    """Every frame in display order, of which never more than a chunk is held.

    Args:
        size: width and height that each is made, whatever its proportions; None: as it is.
        chunk: most frames at a time.

    Yields:
        shape (frames, height, width, 3), uint8, RGB.

    Raises:
        MediaError: as above; frames before one that cannot be decoded may have come already.
    """
    with opened(path) as clip:
        held = []
        for frame in clip.frames(None, size):
            held.append(np.asarray(frame))
            if len(held) == chunk:
                yield np.stack(held)
                held.clear()
        if held:
            yield np.stack(held)


class _File:
    """A video file, in a process that decodes."""

    def __init__(self, path: Path, process: Decoder) -> None:
        self._path, self._process = str(path.absolute()), process
        [(about, times)] = process.ask(do="probe", path=self._path)
        self.times = np.frombuffer(times, "<f8")
        self.duration, self.size = about["duration"], (about["width"], about["height"])

    def frames(self, indices: Sequence[int] | None, size: tuple[int, int] | None = None) -> Iterator[Image.Image]:
        wanted = None if indices is None else [int(place) for place in indices]
        for header, pixels in self._process.ask(do="frames", path=self._path, indices=wanted, size=size):
            yield Image.frombytes("RGB", (header["width"], header["height"]), pixels)
