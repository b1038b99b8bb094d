"""Frames of a video file by PyAV. Every packet and frame has its own timestamp, so a frame is never taken for another.

Only in the process that decodes (`mmalign.media._decoding`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from mmalign.media._files import container, duration_of
from mmalign.media.image import check_size
from mmalign.records import MediaError

if not hasattr(av.VideoFrame, "rotation"):
    raise ImportError(f"PyAV {av.__version__} does not say how frames are turned: pip install 'av>=15'")

NEAR = 8
"""Frames that are rather decoded than jumped over: to jump empties the decoder."""

NO_JUMPS = ("mpeg",)
"""Containers without an index, where a jump lands between frames: gone through from the beginning."""

SHORT = (0.5, 0.05)
"""Seconds, or share of its duration, by which a file may end early and still be whole: headers are not exact."""


class Reader:
    """One video file.

    Attributes:
        times: seconds from the first frame, in display order. Shape: (frames,).
        duration: with the last frame's.
        size: width and height of an upright frame.
        decoded: frames that were decoded so far, wanted or not.
    """

    def __init__(self, path: Path, alive: Callable[[], None]) -> None:
        self.path, self.decoded, self._alive = path, 0, alive
        self._format = container(path)
        self._scaler = VideoReformatter()  # keeps its tables from frame to frame
        self._open()
        check_size(path, self._stream.codec_context.width, self._stream.codec_context.height)
        self._damage: set[int] = set()
        try:
            self._index()
        except FFmpegError as error:
            raise MediaError(f"is cut short ({_words(error)})", reason="truncated") from None
        self.size = self._first_size()

    def frames(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """Frames by their places in display order, upright.

        Args:
            indices: rising.
            size: width and height that each is made; None: those of the first.

        Yields:
            shape (height, width, 3), uint8, RGB.

        Raises:
            MediaError: with reason truncated: a frame cannot be decoded, or is predicted from one that cannot.
        """
        done, again = 0, False
        while done < len(indices):
            key = 0 if again else self._key_of(indices[done])
            try:
                for pixels in self._stretch(indices[done:], key, size or self.size):
                    done += 1
                    yield pixels
                again = False
            except MediaError:
                if not key:
                    raise
                self._damage.clear()
                again = True  # from the beginning: what a file calls a key frame may lean on those before it

    # ---- what is in the file ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            self._file = av.open(
                str(self.path), format=self._format, metadata_errors="ignore", options={"protocol_whitelist": "file"}
            )
        except FFmpegError as error:
            raise MediaError(f"cannot be opened ({_words(error)})", reason="truncated") from None
        pictures = [s for s in self._file.streams.video if Disposition.attached_pic not in s.disposition]
        if not pictures:
            raise MediaError("has no picture, only sound or text", reason="no_video")
        self._stream = pictures[0]
        if self._stream.codec_context is None:
            raise MediaError("is of a codec that this PyAV cannot decode")
        self._stream.codec_context.thread_count = 1  # workers run beside each other already

    def _index(self) -> None:
        """Reads the timestamps of all packets, without decoding."""
        found = []
        for packet in self._file.demux(self._stream):
            self._alive()
            if packet.is_corrupt:
                raise MediaError("is cut short in the middle of a frame", reason="truncated")
            if packet.size and not _hidden(packet, self._stream.codec_context.name):
                found.append((packet.pts, packet.is_keyframe, packet.is_discard))
        marks = [pts for pts, _, _ in found]
        self._by_count = self._format in NO_JUMPS or len(set(marks) - {None}) < len(found)
        if self._by_count:
            return self._index_by_decoding()
        shown = sorted((pts, position) for position, (pts, _, cut) in enumerate(found) if not cut)
        if not shown:
            raise MediaError("has no frame", reason="truncated")
        self._marks = [pts for pts, _ in shown]
        self._positions = [position for _, position in shown]
        self._keys = sorted({pts for pts, key, _ in found if key} | {min(marks)})
        self._position_of = {pts: position for position, pts in enumerate(marks)}
        self._settled = np.maximum.accumulate(marks)
        self.times = (np.array(self._marks) - self._marks[0]) * float(self._stream.time_base)
        self.duration = duration_of(self.times, self._rate)
        self._check_whole()

    def _index_by_decoding(self) -> None:
        """The same where packets say nothing of when their frames are shown: frames are counted as they come out."""
        self._keys, self._settled, self._position_of = [0], [], {}
        times = []
        for mark, frame in self._decoded_from(0):
            times.append(frame.time)
            if frame.key_frame and mark:
                self._keys.append(mark)
        if not times:
            raise MediaError("has no frame that can be decoded", reason="truncated")
        self._marks = self._positions = list(range(len(times)))
        self._settled = np.arange(len(times))
        if None in times or (np.diff(times) <= 0).any():
            times = np.arange(len(times)) / self._rate
        self.times = np.array(times) - times[0]
        self.duration = duration_of(self.times, self._rate)

    @property
    def _rate(self) -> float:
        return float(self._stream.average_rate or 25)

    def _check_whole(self) -> None:
        """Refuses a file whose header promises more than any of its streams holds."""
        said = (self._file.duration or 0) / av.time_base
        base = float(self._stream.time_base)
        start = (self._file.start_time or 0) / av.time_base
        reached = self._marks[0] * base + self.duration - start
        missing = max(SHORT[0], SHORT[1] * said)
        if said - reached <= missing:
            return
        self._open()
        for packet in self._file.demux():
            self._alive()
            if packet.size and packet.pts is not None:
                reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start)
        if said - reached > missing:
            raise MediaError(f"is cut short: {reached:.1f} of {said:.1f} seconds are there", reason="truncated")

    def _first_size(self) -> tuple[int, int]:
        for _, frame in self._decoded_from(0):
            turned = _turns(frame) % 2
            return (frame.height, frame.width) if turned else (frame.width, frame.height)
        raise MediaError("has no frame that can be decoded", reason="truncated")

    # ---- decoding ---------------------------------------------------------------------------------------------------

    def _stretch(self, indices: Sequence[int], key: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Frames from the key frame ``key`` on, as far as it is worth to go on decoding."""
        wanted = deque(indices)
        held: deque[tuple[int, np.ndarray]] = deque()  # until all that they may be predicted from has come out
        for mark, frame in self._decoded_from(key):
            if wanted and mark >= self._marks[wanted[0]]:
                if mark > self._marks[wanted[0]]:
                    break
                held.append((wanted.popleft(), self._pixels(frame, size)))
            while held and self._settled[self._positions[held[0][0]]] <= mark:
                yield self._sound(*held.popleft())
            if not held and (not wanted or len(wanted) < len(indices) and self._far(mark, wanted[0])):
                return
        while held:
            yield self._sound(*held.popleft())
        if wanted:
            raise self._broken(wanted[0])

    def _decoded_from(self, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames in display order with their marks, from the key frame ``key`` on.

        Those that come out before it, of an open group, are predicted from frames that were jumped over.
        """
        first, packets = self._packets_from(key)
        count = 0
        for packet in chain(first, packets):
            self._alive()
            try:
                frames = packet.decode()
            except FFmpegError:
                if self._by_count:
                    self._damage.add(count)
                elif packet.pts is None or packet.pts >= self._keys[key]:
                    self._damage.add(self._position_of.get(packet.pts, 0))
                continue
            for frame in frames:
                self.decoded += 1
                mark = count if self._by_count else frame.pts
                count += 1
                if mark is None or (not self._by_count and mark < self._keys[key]):
                    continue
                if frame.is_corrupt:
                    self._damage.add(mark if self._by_count else self._position_of.get(mark, 0))
                yield mark, frame

    def _packets_from(self, key: int) -> tuple[list[av.Packet], Iterator[av.Packet]]:
        """The packet of a key frame no later than ``key``, and those that follow it."""
        back = 0
        while key > back and not self._by_count:
            try:
                self._file.seek(self._keys[key - back], stream=self._stream)
                packets = self._file.demux(self._stream)
                first = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
                if first is not None and first.pts in self._keys[: key + 1]:
                    return [first], packets
            except FFmpegError:
                pass
            back = 2 * back + 1  # some containers land too late: aim earlier
        self._open()
        return [], self._file.demux(self._stream)

    def _key_of(self, place: int) -> int:
        """The last key frame that is shown no later than a frame: nothing before it is needed."""
        return max(0, bisect_right(self._keys, self._marks[place]) - 1)

    def _far(self, mark: int, place: int) -> bool:
        """Whether the key frame of what is wanted next is worth a jump from the frame at ``mark``."""
        ahead = bisect_right(self._marks, self._keys[self._key_of(place)]) - bisect_right(self._marks, mark)
        return ahead > NEAR and not self._by_count

    def _sound(self, place: int, pixels: np.ndarray) -> np.ndarray:
        """The pixels, unless the frame, or one that it may be predicted from, could not be decoded."""
        key = self._keys[self._key_of(place)]
        start = key if self._by_count else self._position_of[key]
        if any(start <= broken <= self._positions[place] for broken in self._damage):
            raise self._broken(place)
        return pixels

    def _pixels(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """RGB and upright. Shape: (height, width, 3), uint8."""
        turns = _turns(frame)
        width, height = size[::-1] if turns % 2 else size
        made = self._scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC")
        return np.ascontiguousarray(np.rot90(made.to_ndarray(), turns))

    def _broken(self, place: int) -> MediaError:
        at = f"frame {place}, at second {self.times[place]:.2f}"
        return MediaError(f"is broken inside: {at}, cannot be decoded", reason="truncated")


def _turns(frame: av.VideoFrame) -> int:
    """Quarter turns, counterclockwise, that make it upright."""
    return round(frame.rotation / 90) % 4


def _hidden(packet: av.Packet, codec: str) -> bool:
    """Whether a packet holds a frame that is never shown, only predicted from."""
    return codec == "vp8" and not bytes(packet)[0] >> 4 & 1


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
