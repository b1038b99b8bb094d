"""Which frames of a clip are looked at: arithmetic on the times of its frames, without a file.

A frame is shown from its own time until the next frame's, the last one until the clip ends. "The frame at second t" is
the one that is shown then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmalign.records import PART_OF_CLIP, InputError, MediaError

MOST_PARTS = 1_000_000
"""Of a clip that is shown in another order."""

TOLERANCE = 1e-6
"""Seconds by which a frame may come late and still count as begun: arithmetic is not exact."""

PAST_THE_END = 1.0
"""Seconds by which a part may end after its clip does: notes of whole seconds are rounded up. It ends with the clip."""


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a clip are looked at, and how large.

    Attributes:
        count: how many: those in the middles of ``count`` equal parts of the clip's time; with ``fps`` the most. A clip
            that has no more frames shows each once.
        fps: so many a second, or ``count`` where that would be more: the middles of so many equal parts. None:
            ``count``.
        pixels: most pixels of all frames together: larger ones are made smaller, as they are read. None: any.
        times: instead of all this, the frames at these seconds of what is shown.
    """

    count: int = 8
    fps: float | None = None
    pixels: int | None = None
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(map(float, self.times)))
        for name in ("count", "fps", "pixels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"expected more than 0, got {value}", field=name)
        if any(not 0 <= time < math.inf for time in self.times):
            raise InputError(f"expected seconds from 0 on, got {list(self.times)}", field="times")


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
        """What a clip's name says.

        Raises:
            MediaError: with reason out_of_range, where its numbers are none.
        """
        found = PART_OF_CLIP.search(name)
        if not found:
            return cls()
        start, end, order, parts = found.group("start", "end", "order", "parts")
        try:
            numbers = tuple(map(int, order.split(","))) if order else None
            if int(parts or 1) > MOST_PARTS or (numbers and max(numbers) > MOST_PARTS):
                raise ValueError
            return cls(float(start or 0), float(end) if end else None, numbers, int(parts or 1))
        except ValueError:
            raise MediaError(f"{found.group()} says no part: {name}", reason="out_of_range") from None


WHOLE = Part()


@dataclass(frozen=True, eq=False)
class Chosen:
    """Frames that were chosen, n of them, in the order in which they are shown.

    Attributes:
        indices: in display order of the file, counted from 0. Shape: (n,).
        times: when each begins to be shown, in seconds of what is shown. Shape: (n,).
        duration: seconds of what is shown.
    """

    indices: np.ndarray
    times: np.ndarray
    duration: float


def choose(times: np.ndarray, duration: float, choice: FrameChoice = FRAMES, part: Part = WHOLE) -> Chosen:
    """Which frames to look at.

    Args:
        times: of all frames, in display order, seconds from the first. Shape: (frames,).
        duration: of the file, with its last frame.

    Raises:
        MediaError: with reason out_of_range: the part or a time is not in the clip.
    """
    stretches = _Stretches.of(times, duration, part)
    shown = stretches.shown
    if choice.times:
        if max(choice.times) > shown + TOLERANCE:
            raise _outside(f"second {max(choice.times):g} of a clip of {shown:.3f} seconds")
        return stretches.at(np.array(choice.times))
    most = choice.count
    if choice.fps is not None and shown * choice.fps < most:
        most = min(most, max(1, math.floor(shown * choice.fps + 0.5)))
    every = stretches.every(most)
    return stretches.at((np.arange(most) + 0.5) * shown / most) if every is None else every


def frame_places(total: int, count: int) -> np.ndarray:
    """What `choose` gives at a constant rate: the middles of ``count`` equal parts of ``total`` frames, each once.

    Shape: (min(total, count),).
    """
    count = min(total, count)
    return ((np.arange(count) + 0.5) * total / count).astype(int)


def fitted(width: int, height: int, frames: int, pixels: int | None) -> tuple[int, int]:
    """The size at which so many frames have at most ``pixels`` together: never larger, in its own proportions."""
    scale = 1.0 if pixels is None else math.sqrt(pixels / (frames * width * height))
    return (width, height) if scale >= 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


@dataclass(frozen=True, eq=False)
class _Stretches:
    """The stretches of a file that are shown one after the other, all of one length.

    Attributes:
        times: of the file's frames.
        begins: where each stretch begins in the file, in seconds. Shape: (stretches,).
        first, last: the frames that are shown at the beginning and at the end of each. Shape: (stretches,).
        length: seconds of one.
    """

    times: np.ndarray
    begins: np.ndarray
    first: np.ndarray
    last: np.ndarray
    length: float

    @classmethod
    def of(cls, times: np.ndarray, duration: float, part: Part) -> _Stretches:
        end = duration if part.end is None else part.end
        if not 0 <= part.start < duration or end > duration + PAST_THE_END:
            raise _outside(f"seconds {part.start:g} to {end:g} of a clip of {duration:.3f} seconds")
        if part.start >= end:
            raise _outside(f"a part that ends, at second {end:g}, before it begins, at {part.start:g}")
        end = min(end, duration)
        if part.parts < 1 or (part.order is not None and not part.order):
            raise _outside(f"{part.order} of {part.parts} parts")
        order = range(part.parts) if part.order is None else part.order
        if not all(0 <= each < part.parts for each in order):
            raise _outside(f"part {max(order)} of {part.parts}, counted from 0")
        length = (end - part.start) / part.parts
        begins = part.start + length * np.array(order)
        first = _shown_at(times, begins)
        last = np.searchsorted(times, begins + length - TOLERANCE) - 1
        return cls(times, begins, first, np.maximum(first, last), length)

    @property
    def shown(self) -> float:
        """Seconds, all together."""
        return self.length * len(self.begins)

    def at(self, seconds: np.ndarray) -> Chosen:
        """The frames at seconds of what is shown. Shape: (n,)."""
        which = np.minimum((seconds / self.length + 1e-9).astype(int), len(self.begins) - 1)
        found = _shown_at(self.times, self.begins[which] + seconds - which * self.length)
        return self._chosen(np.clip(found, self.first[which], self.last[which]), which)

    def every(self, most: int) -> Chosen | None:
        """All frames that are shown, or None where there are more than ``most``."""
        first = self.first.copy()
        begun = self.times[first] < self.begins - TOLERANCE  # before its stretch: the one before may have shown it
        follows = np.isclose(np.diff(self.begins, prepend=np.nan), self.length)
        first += begun & follows & (first < self.last)
        counts = self.last - first + 1
        if counts.sum() > most:
            return None
        which = np.repeat(np.arange(len(first)), counts)
        return self._chosen(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, self.last, strict=True)]), which)

    def _chosen(self, indices: np.ndarray, which: np.ndarray) -> Chosen:
        begun = np.maximum(self.times[indices] - self.begins[which], 0.0)
        return Chosen(indices, begun + which * self.length, self.shown)


def _shown_at(times: np.ndarray, seconds: np.ndarray | Sequence[float]) -> np.ndarray:
    """Which frame is shown at each second."""
    return np.maximum(np.searchsorted(times, np.asarray(seconds) + TOLERANCE, side="right") - 1, 0)


def _outside(what: str) -> MediaError:
    return MediaError(f"is asked for {what}", reason="out_of_range")
