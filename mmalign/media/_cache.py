"""Frames on the disk that were read once, for the next epoch.

Off, unless the variable MMALIGN_FRAME_CACHE names a folder. Processes may share it. An entry is one file: a line of
JSON, and behind it the pixels as they are. It is written beside its place and then moved there; what does not fit its
checksum is not used, and written again. MMALIGN_FRAME_CACHE_SIZE is the most that all may take, in GB (10^9 bytes).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from mmalign.media import folder
from mmalign.media.choice import FrameChoice, Part
from mmalign.records import InputError

SIZE = 100.0
"""GB, where nothing else is said."""

_LAYOUT = 1
_ENDING = ".frames"
_LOOK_AGAIN = 0.02
"""Share of the size that a process writes before it looks again how much there is."""

_STALE = 86_400
"""Seconds after which a file that was never moved to its place belongs to a process that was killed."""

_written: dict[Path, float] = {}
"""Bytes written by this process since it last looked, by folder; none: it never did."""


class FrameCache:
    """A folder of frames.

    Args:
        root: it is made when first written to.
        size: most bytes of all entries; those that were used longest ago are removed first. It is kept to within two
            hundredths, and what each process is writing.
    """

    def __init__(self, root: Path, size: float) -> None:
        self.root, self.size = root, size

    @classmethod
    def of_environment(cls) -> FrameCache | None:
        """The one that the environment names, or None.

        Raises:
            InputError: its size is no number.
        """
        root, size = os.environ.get("MMALIGN_FRAME_CACHE"), os.environ.get("MMALIGN_FRAME_CACHE_SIZE") or SIZE
        try:
            limit = 1e9 * float(size)
        except ValueError:
            limit = 0.0
        if not limit > 0:
            raise InputError(f"MMALIGN_FRAME_CACHE_SIZE is {size!r}: expected GB, more than 0")
        return cls(Path(root), limit) if root else None

    def entry(self, path: Path, choice: FrameChoice, part: Part, reader: str) -> Path | None:
        """Where frames of a clip are kept: it changes with the clip. None where the clip cannot be looked at."""
        try:
            files = folder.pictures(path) if path.is_dir() else [path]
            states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        except (OSError, InputError):
            return None
        said = [_LAYOUT, os.fsdecode(path.resolve()), states, asdict(choice), asdict(part), reader]
        name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:40]
        return self.root / name[:2] / (name + _ENDING)

    def find(self, entry: Path) -> tuple[dict[str, Any], list[Image.Image]] | None:
        """What is kept there: what was said of the frames, and the frames. None: nothing that is sound."""
        try:
            line, _, pixels = entry.read_bytes().partition(b"\n")
            about = json.loads(line)
            if zlib.crc32(pixels, zlib.crc32(json.dumps(about["about"]).encode())) != about["crc32"]:
                return None
            width, height = about["size"]
            step = 3 * width * height
            parts = (pixels[start : start + step] for start in range(0, len(pixels), step))
            frames = [Image.frombytes("RGB", (width, height), part) for part in parts]
            with suppress(OSError):  # somebody else's
                os.utime(entry)  # used now
            return about["about"], frames
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, entry: Path, about: dict[str, Any], frames: list[Image.Image]) -> None:
        """Writes an entry, and makes room. A disk that is full is no reason to stop: nothing is kept then."""
        pixels = b"".join(frame.tobytes() for frame in frames)
        check = zlib.crc32(pixels, zlib.crc32(json.dumps(about).encode()))
        line = json.dumps({"crc32": check, "size": frames[0].size, "about": about}).encode() + b"\n"
        beside = entry.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(line + pixels)
            os.replace(beside, entry)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            return
        self._make_room(len(line) + len(pixels))

    def _make_room(self, written: int) -> None:
        """Removes what was used longest ago, if there is too much."""
        total = _written.get(self.root)
        if total is not None and total + written < _LOOK_AGAIN * self.size:
            _written[self.root] = total + written
            return
        _written[self.root] = 0.0
        found = []
        for file in self.root.glob("??/*"):
            try:
                status = file.stat()
            except OSError:  # another process removed it
                continue
            if file.suffix == _ENDING:
                found.append((status.st_mtime, status.st_size, file))
            elif file.suffix == ".part" and status.st_mtime < time.time() - _STALE:
                with suppress(OSError):
                    file.unlink()
        left = sum(size for _, size, _ in found) - self.size
        for _, size, file in sorted(found):
            if left <= 0:
                return
            with suppress(OSError):
                file.unlink()
                left -= size
