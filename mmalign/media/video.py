"""Frames of a clip, evenly spaced: only these are decoded, or a MediaError says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.media.image import MediaError, check_file, check_size
from mmalign.records import InputError


def read_frames(path: str | Path, count: int) -> list[Image.Image]:
    """``count`` frames of a clip in mode RGB, in order: the middles of as many equal parts; all of a shorter clip.

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
        frames = reader.get_batch(frame_places(total, count)).asnumpy()
    except (DECORDError, RuntimeError, IndexError) as error:
        raise MediaError(f"cannot be decoded ({_first_line(error)}): {path}", reason="truncated") from None
    return [Image.fromarray(frame) for frame in frames]


def frame_places(total: int, count: int) -> np.ndarray:
    """Indices of the frames: the middles of ``count`` equal parts of ``total``, each once. Shape: (min(both),)."""
    count = min(total, count)
    return ((np.arange(count) + 0.5) * total / count).astype(int)


def _first_line(error: Exception) -> str:
    """decord's message without its place in the source, and without its stack."""
    line = str(error).strip().splitlines()[0]
    return line.rpartition("Check failed: ")[2] or "no video in it"
