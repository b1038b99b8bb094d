"""What it takes to read a few frames of a long clip, beside decoding all of it.

    python -m tests.performance.video                        # an hour of 1080p, as a table
    python -m tests.performance.video --json                 # one JSON object
    python -m tests.performance.video --minutes 5 --whole 1

A minute is encoded once, and its packets are repeated with later timestamps. Everything is measured in a process of
its own. `peak` is the largest resident size of the process that decodes (getrusage), `decoded` how many frames came out
of the decoder or, by decord, had to for those that were wanted. All frames are decoded of a few minutes only, in a
stream of small ones as for shot detection, and none is kept; what they would take together is reckoned.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mmalign.media import FrameChoice, _process, read_clip, stream

RATE, WIDTH, HEIGHT = 30, 1920, 1080
READERS = ("av", "decord")


@dataclass(frozen=True)
class Measured:
    """One way to read: how many minutes of the clip, frames that were given and decoded, bytes, seconds."""

    reader: str
    what: str
    minutes: int
    given: int
    decoded: int
    peak: int
    seconds: float


def make_minute(path: Path) -> None:
    """A minute in which a picture moves."""
    import av

    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(60 * RATE):
            frame = av.VideoFrame.from_ndarray(np.roll(scene, 4 * number, axis=1), "rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def repeat(minute: Path, path: Path, minutes: int) -> None:
    """The minute, ``minutes`` times; nothing is encoded."""
    import av

    with av.open(str(path), "w") as file:
        stream = None
        for number in range(minutes):
            with av.open(str(minute)) as source:
                stream = stream or file.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        later = round(60 * number / packet.time_base)
                        packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, stream
                        file.mux(packet)


def few(path: Path, reader: str, minutes: int, count: int) -> Measured:
    """Some frames, spread over the clip."""
    start = time.perf_counter()
    given = len(read_clip(path, FrameChoice(count)).frames)
    return _measured(reader, "some frames", minutes, given, start)


def whole(path: Path, reader: str, minutes: int) -> Measured:
    """All frames of the clip, made small."""
    start = time.perf_counter()
    given = sum(len(part) for part in stream(path))
    return _measured(reader, "all frames", minutes, given, start)


def _measured(reader: str, what: str, minutes: int, given: int, start: float) -> Measured:
    seconds = time.perf_counter() - start
    decoded = sum(each.decoded for each in _process._idle)
    _process.close()  # only children that have ended are counted
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Measured(reader, what, minutes, given, decoded, peak, seconds)


def alone(work: Any, path: Path, reader: str, *arguments: Any) -> Any:
    """``work`` in a process of its own, with one of the readers."""
    os.environ["MMALIGN_VIDEO_READER"] = reader
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, path, reader, *arguments).result()


def table(found: list[Measured]) -> str:
    rows = [("reader", "what", "minutes", "frames", "decoded", "peak, MB", "seconds", "seconds a minute of clip")]
    rows += [("---",) * len(rows[0])]
    for each in found:
        counts = [f"{value:,}" for value in (each.minutes, each.given, each.decoded, round(each.peak / 1e6))]
        rows.append((each.reader, each.what, *counts, f"{each.seconds:.1f}", f"{each.seconds / each.minutes:.3f}"))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def about(path: Path, minutes: int) -> dict[str, Any]:
    frames = 60 * RATE * minutes
    size = f"{WIDTH} x {HEIGHT}, {RATE}/s, {frames:,} frames, {path.stat().st_size / 1e6:,.0f} MB"
    return {
        "clip": f"{minutes} min of H.264, {size}",
        "all frames in memory, GB": round(frames * WIDTH * HEIGHT * 3 / 1e9),
        "av": version("av"),
        "decord": version("decord"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60, help="length of the clip (default: 60)")
    parser.add_argument("--whole", type=int, default=3, help="minutes of which all frames are decoded (default: 3)")
    parser.add_argument("--count", type=int, default=16, help="frames that are read (default: 16)")
    parser.add_argument("--readers", nargs="+", default=list(READERS), choices=READERS, help="(default: both)")
    parser.add_argument("--folder", type=Path, help="where clips are written and deleted again (default: temporary)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    args = parser.parse_args()
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        clip, short = Path(name) / "clip.mp4", Path(name) / "short.mp4"
        make_minute(Path(name) / "minute.mp4")
        repeat(Path(name) / "minute.mp4", clip, args.minutes)
        repeat(Path(name) / "minute.mp4", short, args.whole)
        for reader in args.readers:
            found.append(alone(few, clip, reader, args.minutes, args.count))
            found.append(alone(whole, short, reader, args.whole))
            print(table(found[-2:]), file=sys.stderr)
        said = about(clip, args.minutes)
    rows = [asdict(each) for each in found]
    print(json.dumps({**said, "measured": rows}) if args.json else f"{said}\n\n{table(found)}")


if __name__ == "__main__":
    main()
