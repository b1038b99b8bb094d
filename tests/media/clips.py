"""Clips made with PyAV whose pictures say in black and white which frame they are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

COUNT, RATE, BITS = 60, 25, 6
WIDTH, HEIGHT = 96, 64
BASE = Fraction(1, 90_000)

GROUPS = "keyint=12:min-keyint=12:scenecut=0:b-adapt=0:bframes=3:log-level=none"
UNEVEN = np.cumsum([0, *np.random.default_rng(0).integers(1, 6, COUNT - 1)]) / 50
EVEN = np.arange(COUNT) / RATE

KINDS = {  # codec, its options, times
    "closed.mp4": ("libx264", {"x264-params": GROUPS}, EVEN),
    "closed.mkv": ("libx264", {"x264-params": GROUPS}, EVEN),
    "uneven.mp4": ("libx264", {"x264-params": GROUPS}, UNEVEN),
    "uneven.mkv": ("libx264", {"x264-params": GROUPS}, UNEVEN),
    "open.mp4": ("libx264", {"x264-params": GROUPS + ":open-gop=1"}, EVEN),
    "open.ts": ("libx264", {"x264-params": GROUPS + ":open-gop=1"}, EVEN),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=12:min-keyint=12:scenecut=0:log-level=none"}, EVEN),
    "stored.mp4": ("mpeg4", {"bf": "2", "g": "12"}, EVEN),
    "stored.avi": ("mpeg4", {"bf": "2", "g": "12"}, EVEN),
    "programme.mpg": ("mpeg2video", {"bf": "2", "g": "12"}, EVEN),
    "web.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "8", "g": "12"}, EVEN),
    "one.mp4": ("libx264", {}, EVEN[:1]),
}
NOT_BY_DECORD = {"open.ts": "unreadable", "stored.avi": "unreadable", "programme.mpg": "unreadable"}


def picture(number: int) -> np.ndarray:
    """Bits of ``number`` as bars, over noise that no frame shares. Shape: (HEIGHT, WIDTH, 3), uint8."""
    bars = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    pixels = np.broadcast_to(np.repeat(bars, WIDTH // BITS)[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    pixels[HEIGHT // 2 :] = np.random.default_rng(number).integers(0, 256, (HEIGHT // 2, WIDTH, 3))
    return pixels


def said(frame) -> int:
    """The number that a picture shows."""
    pixels = np.asarray(frame)
    bars = pixels[: pixels.shape[0] // 2 - 2, :, 0].mean(0).reshape(BITS, -1)
    return int(sum(int(bar[1:-1].mean() > 128) << bit for bit, bar in enumerate(bars)))


def make(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """A file of every kind, and the times of its frames."""
    av = pytest.importorskip("av", reason="PyAV is not installed: clips are made with it")
    av.logging.set_level(av.logging.PANIC)
    return {name: (_write(folder / name, *kind), kind[-1]) for name, kind in KINDS.items()}


def _write(path: Path, codec: str, options: dict[str, str], times: np.ndarray) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        uneven = len(times) > 1 and not np.allclose(np.diff(times), 1 / RATE)
        base = BASE if uneven else Fraction(1, RATE)
        stream.codec_context.time_base = base
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            frame.pts, frame.time_base = round(time / base), base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """A file without a picture."""
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def packet(path: Path, place: int) -> tuple[int, int]:
    """Where a frame lies in a file: its first byte, and how many."""
    import av

    with av.open(str(path)) as file:
        packets = sorted((p.pts, p.pos, p.size) for p in file.demux(video=0) if p.size)
    return packets[place][1:]


def decode_all(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The plain way: times and pictures of all frames of a file."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path)) as file:
        found = sorted(
            ((frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)), key=lambda each: each[0]
        )
    return np.array([time for time, _ in found]), [pixels for _, pixels in found]
