"""Video files: what is in one, some of its frames, or all of them in a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mmalign.media.image import MediaError, check_file, check_size
from mmalign.records import InputError


@dataclass(frozen=True, eq=False)
class Probe:
    """What is in a clip.

    Attributes:
        count: frames.
        times: when each is first shown, in seconds from the first. In display order. Shape: (count,), float64.
        duration: seconds, with the last frame's.
        width, height: of a frame that is upright.
    """

    count: int
    times: np.ndarray
    duration: float
    width: int
    height: int


def probe(path: str | Path) -> Probe:
    """What is in a clip. Raises MediaError."""
    reader = _open(Path(path))
    try:
        spans = reader.get_frame_timestamp(range(len(reader))).astype(float)
        height, width = reader[0].shape[:2]
    except Exception as error:
        raise MediaError(f"cannot be decoded ({error}): {path}", reason="truncated") from None
    starts = np.sort(spans[:, 0])
    return Probe(len(reader), starts - starts[0], float(spans.max() - starts[0]), width, height)


def read_indices(path: str | Path, indices: Sequence[int]) -> tuple[Image.Image, ...]:
    """Frames of a clip by their places in display order. Raises MediaError."""
    reader = _open(Path(path))
    try:
        return tuple(map(Image.fromarray, reader.get_batch(list(indices)).asnumpy()))
    except Exception as error:
        raise MediaError(f"cannot be decoded ({error}): {path}", reason="truncated") from None


def stream(path: str | Path, size: tuple[int, int] = (48, 27), chunk: int = 512) -> Iterator[np.ndarray]:
    """Every frame in display order, made small. Chunks of shape (at most chunk, height, width, 3), uint8."""
    reader = _open(Path(path))
    for start in range(0, len(reader), chunk):
        yield np.stack([_small(reader, i, size) for i in range(start, min(start + chunk, len(reader)))])


def _small(reader, index: int, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(reader[index].asnumpy()).resize(size, Image.Resampling.BILINEAR))


def _open(path: Path):
    check_file(path)
    try:
        from decord import VideoReader
    except ImportError:
        raise InputError("clips are read with decord: pip install decord, or give the frames as images") from None
    try:
        reader = VideoReader(str(path), num_threads=1)
        check_size(path, *reversed(reader[0].shape[:2]))
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"cannot be decoded ({str(error).splitlines()[0]}): {path}", reason="truncated") from None
    return reader
