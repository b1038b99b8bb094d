"""Frames of a video file by decord, where PyAV is not installed.

decord counts frames from the key frame it has jumped to and never looks at their timestamps. It takes the place of a
key frame in the file for its place on the screen, so wherever frames are shown in another order than they are stored,
and a group refers to the one before it, it gives other frames than those asked for, without a word. So it jumps only
in files whose own tables show that this does not happen, goes through all others from the beginning, and refuses
containers in which even that fails.

Only in the process that decodes (`mmalign.media._decoding`).
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from decord import DECORDError, VideoReader
from PIL import Image

from mmalign.media._files import container, duration_of
from mmalign.media._mp4 import frame_table
from mmalign.media.image import check_size
from mmalign.records import MediaError

_MEMORY = 1 << 30
"""Bytes that it may take beside what there was."""

_READ = ("mov", "matroska", "avi", "flv", "asf")
_PRECISION = 2.0**-22  # of decord's times, relative
_ERRORS = (DECORDError, RuntimeError, IndexError, StopIteration)


class Reader:
    """One video file; the attributes and `frames` are those of `mmalign.media._pyav.Reader`.

    A frame that cannot be decoded stops the clip, but one that is only damaged passes: decord does not say so.
    """

    def __init__(self, path: Path, alive: Callable[[], None]) -> None:
        self.path, self.decoded, self._alive = path, 0, alive
        kind = container(path)
        if kind not in _READ:
            raise MediaError(f"decord finds the wrong frames in this kind of file ({kind}): pip install av")
        self._jumps = False  # until its tables are read
        self._most = _resident() + _MEMORY
        self._open()
        try:
            spans = self._reader.get_frame_timestamp(range(len(self._reader))).astype(float)
            height, width = self._read(0).shape[:2]
            rate = self._reader.get_avg_fps()
        except _ERRORS as error:
            raise _undecodable(error) from None
        self._set_times(kind, spans, rate)
        self.size = (width, height)
        check_size(path, *self.size)

    def frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        for place in indices:
            self._alive()
            try:
                pixels = self._read(place)
            except _ERRORS as error:
                raise _undecodable(error) from None
            small = size is not None and size != self.size
            yield np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)) if small else pixels

    def _open(self) -> None:
        try:
            self._reader, self._at = VideoReader(str(self.path), num_threads=1), 0
        except _ERRORS as error:
            raise _undecodable(error) from None

    def _set_times(self, kind: str, spans: np.ndarray, rate: float) -> None:
        """Makes decord's times, of single precision, exact: the file's own, those of an even rate, or milliseconds."""
        starts = spans[:, 0] - spans[:, 0].min()
        if not np.isfinite(spans).all() or np.abs(spans).max() > 1e9 or (np.diff(starts) <= 0).any():
            raise MediaError("decord finds no times of its frames: pip install av")
        near = _PRECISION * np.maximum(spans[:, 1], 1)
        table = frame_table(self.path) if kind == "mov" else None
        even, coarse = np.arange(len(starts)) / rate, starts.round(3)
        guesses = [even, coarse] if table is None else [np.sort(table.times) - table.times.min()]
        fits = (guess for guess in guesses if len(guess) == len(starts) and (np.abs(guess - starts) <= near).all())
        self.times = next(fits, starts)
        self.duration = duration_of(self.times, rate)
        self._jumps = table is not None and self.times is guesses[0] and table.closed

    def _read(self, place: int) -> np.ndarray:
        """A frame. Shape: (height, width, 3), uint8."""
        if _resident() > self._most:
            self._empty()
        if self._jumps:
            key = max((key for key in self._reader.get_key_indices() if key <= place), default=0)
            if key > self._at or place < self._at:
                self._at = key
            self.decoded += place - self._at + 1
            self._reader.seek_accurate(place)
        else:
            if place < self._at:
                self._open()
            self.decoded += place - self._at + 1
            for _ in range(self._at, place):  # skip_frames would jump
                self._alive()
                self._reader.next()
                if _resident() > self._most:
                    self._empty()
        self._at = place + 1
        return self._reader.next().asnumpy()

    def _empty(self) -> None:
        """Begins anew: decord decodes ahead of what is asked for, without an end, and keeps it all."""
        if not self._jumps:
            raise MediaError("decord needs too much memory for a file in which it cannot jump: pip install av")
        self._open()


def _resident() -> int:
    """Bytes of this process; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _undecodable(error: Exception) -> MediaError:
    """decord's message without its place in the source, and without its stack."""
    line = (str(error).strip().splitlines() or [""])[0]
    if "cannot find video stream" in line:
        return MediaError("has no picture, or none that decord can decode", reason="no_video")
    return MediaError(f"cannot be decoded ({line.rpartition('Check failed: ')[2] or 'no frame'})", reason="truncated")
