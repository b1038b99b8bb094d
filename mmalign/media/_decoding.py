"""The process that decodes video files: it may hang or crash on a broken one, and is then replaced.

Started by `mmalign.media._process` as ``python -m mmalign.media._decoding``. It reads one request a line, and answers
each with messages: a line of JSON, and behind it as many bytes as its ``bytes`` says. ::

    {"do": "probe", "path": "/a.mp4"}
        {"count": 250, "duration": 10.0, "width": 480, "height": 320, "bytes": 2000}   times, float64
        {"end": true, "decoded": 1}
    {"do": "frames", "path": "/a.mp4", "indices": [3, 40], "size": [240, 160]}
        {"width": 240, "height": 160, "bytes": 115200}                                  pixels, RGB; for each frame
        {"end": true, "decoded": 29}

``indices`` null is every frame, ``size`` null the first frame's. A file that cannot be used is answered with
``{"end": true, "error": ..., "reason": ...}``. ``{"alive": true}`` may come at any time: work goes on. All ends with
the input, or with the process that started this one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmalign.records import MediaError

READERS = {"av": "PyAV", "decord": "decord"}
"""In the order in which they are preferred."""

_OPEN = 2
"""Files that stay open: what was probed is often read next."""

_ALIVE = 1.0
"""Seconds between signs of life."""


class NoReader(Exception):
    """Nothing is installed that reads clips."""


class Readers:
    """Files that were opened, the last few of them."""

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._open: OrderedDict[tuple, Any] = OrderedDict()

    def of(self, path: Path, wanted: str) -> Any:
        """The reader of a file, by what is installed or else by ``wanted``."""
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns, wanted)
        reader = self._open.pop(key, None) or _kind(wanted)(path, self._alive)
        self._open[key] = reader
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return reader

    def forget(self) -> None:
        """Closes all: a reader that failed may be in any state."""
        self._open.clear()


def _kind(wanted: str) -> type:
    """The class of readers to use."""
    missing = ""
    for name in [wanted] if wanted else READERS:
        try:
            if name == "av":
                from mmalign.media._pyav import Reader
            else:
                from mmalign.media._decord import Reader
            return Reader
        except (ImportError, OSError) as error:
            missing = str(error)
    raise NoReader(missing)


def answer(readers: Readers, request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The messages that answer a request."""
    reader = readers.of(Path(request["path"]), request.get("reader", ""))
    before = reader.decoded
    width, height = reader.size
    if request["do"] == "probe":
        about = {"count": len(reader.times), "duration": reader.duration, "width": width, "height": height}
        yield about, reader.times.astype("<f8").tobytes()
    else:
        indices = request["indices"]
        for frame in reader.frames(range(len(reader.times)) if indices is None else indices, request["size"]):
            yield {"width": frame.shape[1], "height": frame.shape[0]}, frame.tobytes()
    yield {"end": True, "decoded": reader.decoded - before}, b""


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until there are no more."""

    def send(header: dict[str, Any], payload: bytes = b"") -> None:
        if payload:
            header = {**header, "bytes": len(payload)}
        replies.write(json.dumps(header).encode() + b"\n")
        replies.write(payload)
        replies.flush()

    said = time.monotonic()

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said > _ALIVE:
            said = time.monotonic()
            send({"alive": True})

    readers = Readers(alive)
    for line in requests:
        try:
            for header, payload in answer(readers, json.loads(line)):
                send(header, payload)
        except BrokenPipeError:
            return
        except NoReader as error:
            send({"end": True, "none": str(error)})
        except Exception as error:
            readers.forget()
            reason = error.reason if isinstance(error, MediaError) else "unreadable"
            problem = error.problem if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
            send({"end": True, "error": problem, "reason": reason})


def _end_with(parent: int) -> None:
    """Ends this process when its parent has: another that it started may still hold the pipe open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent, which then closes the pipe
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    replies = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # what a decoder prints is no reply
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
