"""Processes that decode (`mmalign.media._decoding`), from the side of those who ask.

One is started when first needed, and kept. Each thread that reads at the same time has its own; a process that was
forked starts its own.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmalign.records import InputError, MediaError

TIMEOUT = 60.0
"""Seconds without progress after which a file is given up; the variable MMALIGN_VIDEO_TIMEOUT says otherwise."""

COMMAND = (sys.executable, "-P", "-m", "mmalign.media._decoding")

_ROOT = str(Path(__file__).resolve().parents[2])
_READERS = ("", "av", "decord")

_idle: list[Decoder] = []
_lock = threading.Lock()


class Decoder:
    """A process that decodes.

    Attributes:
        decoded: frames that it decoded since it was started, wanted or not.
        busy: whether it is in the middle of an answer.
    """

    def __init__(self) -> None:
        environment = dict(os.environ)
        if _ROOT not in site.getsitepackages():  # not installed, or not from there: the same mmalign as this one
            environment["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [environment.get("PYTHONPATH")])])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(COMMAND, bufsize=0, env=environment, **pipes)
        self._poll = select.poll()
        self._poll.register(self._process.stdout, select.POLLIN)
        self._left = bytearray()
        self.decoded = 0
        self.busy = False

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **request: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The messages that answer a request, but the last, each with its bytes.

        Raises:
            InputError: nothing is installed that reads clips.
            MediaError: the reader's, or with reason timeout or crashed. The file is not named.
        """
        limit, self.busy = time_limit(), True
        try:
            self._process.stdin.write(json.dumps({**request, "reader": wanted_reader()}).encode() + b"\n")
        except BrokenPipeError:
            raise self._crashed() from None
        while True:
            header = json.loads(self._line(limit))
            self.busy = not header.keys() & {"none", "error", "end"}
            if "none" in header:
                raise InputError(
                    f"clips are read with PyAV: pip install av, or give the frames as pictures ({header['none']})"
                )
            if "error" in header:
                raise MediaError(header["error"], reason=header["reason"])
            if "end" in header:
                self.decoded += header["decoded"]
                return
            if "alive" not in header:
                yield header, self._bytes(header.get("bytes", 0), limit)

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self.let_go()

    def let_go(self) -> None:
        """Closes the pipes."""
        self._process.stdin.close()
        self._process.stdout.close()

    def _line(self, limit: float) -> bytes:
        while b"\n" not in self._left:
            self._left += self._more(limit)
        line, _, rest = self._left.partition(b"\n")
        self._left = rest
        return bytes(line)

    def _bytes(self, count: int, limit: float) -> bytes:
        while len(self._left) < count:
            self._left += self._more(limit, count - len(self._left))
        data = bytes(memoryview(self._left)[:count])
        self._left = self._left[count:]
        return data

    def _more(self, limit: float, most: int = 1 << 16) -> bytes:
        if not self._poll.poll(1000 * limit):
            raise MediaError(
                f"is given up after {limit:g} seconds without progress (MMALIGN_VIDEO_TIMEOUT)", reason="timeout"
            )
        data = os.read(self._process.stdout.fileno(), max(most, 1 << 16))
        if not data:
            raise self._crashed()
        return data

    def _crashed(self) -> MediaError:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return MediaError(f"the process that decoded it ended with {how}", reason="crashed")


def time_limit() -> float:
    """Seconds without progress after which a file is given up."""
    said = os.environ.get("MMALIGN_VIDEO_TIMEOUT", "")
    try:
        limit = float(said or TIMEOUT)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e6:
        raise InputError(f"MMALIGN_VIDEO_TIMEOUT is {said!r}: expected seconds, more than 0")
    return limit


def wanted_reader() -> str:
    """``av`` or ``decord``, as MMALIGN_VIDEO_READER says; empty: the better one that is installed."""
    name = os.environ.get("MMALIGN_VIDEO_READER", "")
    if name not in _READERS:
        raise InputError(f"MMALIGN_VIDEO_READER is {name!r}: expected av or decord")
    return name


@contextmanager
def decoder() -> Iterator[Decoder]:
    """A process that decodes, for this thread alone. What stops in the middle of an answer ends it."""
    with _lock:
        mine = _idle.pop() if _idle else None
    while mine is not None and not mine.alive:
        mine.let_go()
        with _lock:
            mine = _idle.pop() if _idle else None
    mine = mine or Decoder()
    try:
        yield mine
    except MediaError as error:
        if error.reason in ("timeout", "crashed"):
            mine.close()
        else:
            _give_back(mine)
        raise
    except BaseException:
        mine.close()
        raise
    _give_back(mine)


def _give_back(mine: Decoder) -> None:
    if mine.busy:
        mine.close()
        return
    with _lock:
        _idle.append(mine)


def close() -> None:
    """Ends the processes that are idle."""
    while _idle:
        _idle.pop().close()


def _forked() -> None:
    """A forked process has none: those of its parent are not its own."""
    global _lock
    _lock = threading.Lock()
    for each in _idle:
        each._process.returncode = 0
        each.let_go()
    _idle.clear()


atexit.register(close)
os.register_at_fork(after_in_child=_forked)
