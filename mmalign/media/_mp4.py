"""When the frames of an MP4 or MOV file are shown and which are key frames, from the tables in its header.

ISO/IEC 14496-12: ``stts`` (8.6.1.2), ``ctts`` (8.6.1.3), ``stss`` (8.6.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_LARGEST = 1 << 27  # bytes of a header


class FrameTable(NamedTuple):
    """Frames in the order in which they are stored.

    Attributes:
        times: when each is shown, in seconds. Shape: (frames,), float64.
        keys: places of the key frames. Shape: (key frames,).
    """

    times: np.ndarray
    keys: np.ndarray

    @property
    def closed(self) -> bool:
        """Whether nothing that is stored after a key frame is shown before it, nor the other way round."""
        highest = np.maximum.accumulate(self.times)[self.keys]
        lowest = np.minimum.accumulate(self.times[::-1])[::-1][self.keys]
        return bool((highest == lowest).all())


def frame_table(path: Path) -> FrameTable | None:
    """The table of the one video track; None where there is no such header, or it does not say all."""
    try:
        moov = _header(path)
        tracks = [
            track
            for kind, track in _boxes(moov)
            if kind == b"trak" and _inner(track, b"mdia", b"hdlr")[8:12] == b"vide"
        ]
        if len(tracks) != 1 or b"mvex" in dict(_boxes(moov)):  # in fragments, the tables are elsewhere
            return None
        return _table(tracks[0])
    except (OSError, KeyError, ValueError, struct.error):
        return None


def _table(track: bytes) -> FrameTable | None:
    boxes = dict(_boxes(_inner(track, b"mdia", b"minf", b"stbl")))
    head = _inner(track, b"mdia", b"mdhd")
    (scale,) = struct.unpack_from(">I", head, 20 if head[0] else 12)
    lengths = _runs(boxes[b"stts"])
    stored = np.cumsum(lengths) - lengths
    if b"ctts" in boxes:
        stored = stored + _runs(boxes[b"ctts"], signed=True)
    keys = np.arange(len(stored))
    if b"stss" in boxes:
        keys = np.frombuffer(boxes[b"stss"], ">u4", offset=8).astype(int) - 1
    edits = dict(_boxes(track)).get(b"edts")
    if edits is not None and _cuts(_inner(edits, b"elst")):
        return None
    return FrameTable(stored / scale, keys)


def _runs(box: bytes, signed: bool = False) -> np.ndarray:
    """Values that are stored as (how often, value)."""
    pairs = np.frombuffer(box, ">u4", offset=8).reshape(-1, 2)
    values = pairs[:, 1].view(">i4") if signed else pairs[:, 1]
    counts = pairs[:, 0].astype(np.int64)
    if counts.sum() > _LARGEST:
        raise ValueError("more frames than a file can hold")
    return np.repeat(values.astype(np.int64), counts)


def _cuts(box: bytes) -> bool:
    """Whether an edit list shows more than one stretch; an empty one before it only delays it."""
    kind = ">i8" if box[0] else ">i4"
    entry = np.dtype([("length", kind.replace("i", "u")), ("start", kind), ("rate", ">u4")])
    return int((np.frombuffer(box, entry, offset=8)["start"] >= 0).sum()) > 1


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        while True:
            size, kind = struct.unpack(">I4s", file.read(8))
            skip = 8
            if size == 1:
                (size,), skip = struct.unpack(">Q", file.read(8)), 16
            if kind == b"moov":
                if size > _LARGEST:
                    raise ValueError("a header of no likely size")
                return file.read(size - skip)
            if size < skip:
                raise ValueError("the last box, and no header yet")
            file.seek(size - skip, 1)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _inner(data: bytes, *kinds: bytes) -> bytes:
    for kind in kinds:
        data = dict(_boxes(data))[kind]
    return data
