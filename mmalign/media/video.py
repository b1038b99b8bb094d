"""Frames of a clip: only those that are wanted are decoded, or a MediaError says why not.

Which part of a file a clip is may stand behind its name, as in W3C's media fragments::

    talk.mp4                     all of it
    talk.mp4#t=12,20.5           from second 12 to second 20.5; #t=12 to the end
    talk.mp4#order=2,0:4         the third and the first of its four quarters, in this order
    talk.mp4#t=12,20&order=1,0:2 the halves of a part, exchanged
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.media.image import MediaError, check_file, check_size
from mmalign.records import PART_OF_CLIP, InputError, media_path


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a clip are looked at, and how large.

    Attributes:
        count: how many, the most with ``fps``; all frames of a clip that has no more.
        fps: so many a second; ``count`` frames, evenly spaced, of a clip that is too long for it. None: ``count``,
            evenly spaced.
        pixels: most pixels of all frames together: larger ones are made smaller, as they are read. None: any.
    """

    count: int = 8
    fps: float | None = None
    pixels: int | None = None


FRAMES = FrameChoice()
"""What is looked at where nothing else is said."""


@dataclass(frozen=True)
class Part:
    """Which part of a file a clip is.

    Attributes:
        start, end: seconds from the first frame of the file; None: to its end.
        order: which of ``parts`` equal parts of that stretch are shown, one after the other. None: as it is.
    """

    start: float = 0.0
    end: float | None = None
    order: tuple[int, ...] | None = None
    parts: int = 1

    @classmethod
    def of(cls, name: str) -> Part:
        """What a clip's name says."""
        found = PART_OF_CLIP.search(name)
        if not found:
            return cls()
        start, end, order, parts = found.group("start", "end", "order", "parts")
        numbers = tuple(map(int, order.split(","))) if order else None
        return cls(float(start or 0), float(end) if end else None, numbers, int(parts or 1))


WHOLE = Part()


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a clip.

    Attributes:
        frames: in the order in which they are shown, mode RGB, upright, all of one size.
        times: seconds from the beginning of what is shown, of each.
        indices: which frames of the file they are, counted from 0.
        duration: of what is shown, in seconds.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    indices: tuple[int, ...]
    duration: float


def open_clip(name: str, media_root: str | Path, choice: FrameChoice = FRAMES) -> Clip:
    """The frames of a record's clip; see `read_clip`, and the top of this page for names."""
    return read_clip(media_path(name, media_root), choice, Part.of(name))


def read_clip(path: str | Path, choice: FrameChoice = FRAMES, part: Part = WHOLE) -> Clip:
    """The frames of a clip that ``choice`` asks for.

    Raises:
        InputError: there is no decord.
        MediaError: with reason missing, unreadable, truncated (no frame can be decoded, or not one of those wanted) or
            too_large.
    """
    path = Path(path)
    check_file(path)
    try:
        from decord import DECORDError, VideoReader
    except ImportError:
        raise InputError("clips are read with decord: pip install decord, or give the frames as images") from None
    try:
        reader = VideoReader(str(path), num_threads=1)
        total = len(reader)
        if not total:
            raise MediaError(f"has no frame: {path}", reason="truncated")
        check_size(path, *reversed(reader[0].shape[:2]))
        places = frame_places(total, choice.count)
        frames = reader.get_batch(places).asnumpy()
        rate = reader.get_avg_fps()
    except (DECORDError, RuntimeError, IndexError) as error:
        raise MediaError(f"cannot be decoded ({_first_line(error)}): {path}", reason="truncated") from None
    pictures = tuple(map(Image.fromarray, frames))
    return Clip(pictures, tuple((places / rate).tolist()), tuple(places.tolist()), total / rate)


def as_pictures(messages: Sequence[dict], pictures: Sequence[list], clips: Sequence[list]) -> tuple[list[dict], list]:
    """Messages with an image placeholder for each frame of a clip, and what stands for them, in their order.

    For models that know no clips.

    Args:
        messages: a prompt with a block for every picture and clip.
        pictures: a list of one for each image placeholder.
        clips: the frames for each video placeholder.

    Raises:
        InputError: placeholders and media differ in number.
    """
    for kind, given in (("image", pictures), ("video", clips)):
        found = sum(block["type"] == kind for message in messages for block in message["content"])
        if found != len(given):
            raise InputError(f"{found} {kind} placeholders in the prompt, but {len(given)} {kind}s", field="prompt")
    left = {"image": iter(pictures), "video": iter(clips)}
    shown: list = []
    written = []
    for message in messages:
        blocks: list[dict[str, str]] = []
        for block in message["content"]:
            if block["type"] not in left:
                blocks.append(block)
                continue
            media = next(left[block["type"]])
            shown += media
            blocks += [{"type": "image"}] * (len(media) if block["type"] == "video" else 1)
        written.append({**message, "content": blocks})
    return written, shown


def frame_places(total: int, count: int) -> np.ndarray:
    """Indices of the frames: the middles of ``count`` equal parts of ``total``, each once. Shape: (min(both),)."""
    count = min(total, count)
    return ((np.arange(count) + 0.5) * total / count).astype(int)


def _first_line(error: Exception) -> str:
    """decord's message without its place in the source, and without its stack."""
    line = str(error).strip().splitlines()[0]
    return line.rpartition("Check failed: ")[2] or "no video in it"
