"""Key frames: the sharpest ones near the inner points that cut a stretch of a clip into equal parts.

How sharp a frame is: the mean absolute Laplacian of its grey values, smoothed before (TEMPLE, arXiv 2503.16929, as its
released code has it).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmalign import media
from mmalign.builders._shots import frames_between

CHUNK_BYTES = 64 * 2**20
"""Frames that are held at a time, at their full size."""


def sharpness(frame: np.ndarray) -> float:
    """The mean over a frame of |L * G * grey|, on a scale of its own.

    G is the 3 x 3 binomial kernel, L the Laplacian with weights 1 on the diagonals and -4 in the middle, which is what
    second derivatives of Sobel's size 3 add up to; both mirror the frame at its edges. All in whole numbers.

    Shape: (height, width, 3), uint8.
    """
    red, green, blue = np.moveaxis(frame.astype(np.uint16), -1, 0)
    grey = ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.int16)
    wide = np.pad(grey, 1, mode="reflect")
    across = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    smooth = np.pad(across[:-2] + 2 * across[1:-1] + across[2:], 1, mode="reflect")  # at most 16 * 255
    corners = smooth[:-2, :-2] + smooth[:-2, 2:] + smooth[2:, :-2] + smooth[2:, 2:]  # at most 16,320: no overflow
    return float(np.abs(corners - 4 * smooth[1:-1, 1:-1]).mean(dtype=np.float64))


def windows(first: int, last: int, count: int) -> list[dict[int, float]]:
    """For each key frame of a stretch, which frames it may be, and the weight of each: 1 in the middle, 0 at the edges.

    The middles are the inner points that cut the stretch into ``count`` + 1 equal parts; a window reaches half such a
    part to either side, and the weight is cos(pi d / W) at d frames from the middle of a window of W.
    """
    interval = (last - first) / (count + 1)
    half = int(interval) // 2
    middles = [first + int(interval * number) for number in range(1, count + 1)]
    return [
        {
            middle + d: math.cos(math.pi * d / (2 * half)) if abs(d) < half else float(d == 0)
            for d in range(-half, half + 1)
        }
        for middle in dict.fromkeys(middles)
    ]


def key_frames(path: Path, stretches: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """``count`` frames of each stretch: in each window the largest sharpness times weight, the nearest of equal ones.

    Args:
        stretches: first and last frame in the file, both inclusive, of each.
        count: frames of each; fewer where a stretch is too short for as many: one of a single frame, or of two.

    Returns:
        Frames of the file, ascending, for each stretch.

    Raises:
        MediaError: the file cannot be read.
    """
    wanted = [window for first, last in stretches for window in windows(first, last, count)]
    of_frame = defaultdict(list)
    for number, window in enumerate(wanted):
        for frame, weight in window.items():
            of_frame[frame].append((number, weight))
    best = [(-1.0, 0.0, 0)] * len(wanted)
    for frame, picture in _pictures(path, min(of_frame), max(of_frame)):
        if frame in of_frame:
            sharp = sharpness(picture)
            for number, weight in of_frame[frame]:
                best[number] = max(best[number], (sharp * weight, weight, frame))
    chosen = iter(frame for _, _, frame in best)
    return [sorted({next(chosen) for _ in windows(*stretch, count)}) for stretch in stretches]


def _pictures(path: Path, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames at their own size, with their places in the file; few at a time are in memory."""
    probed = media.probe(path)
    size = (probed.width, probed.height)
    at_a_time = max(1, CHUNK_BYTES // (3 * probed.width * probed.height))
    at = first
    for frames in frames_between(path, first, last, size, at_a_time):
        for frame in frames:
            yield at, frame
            at += 1
