"""Clips of plain scenes with hard cuts, and a model that says what it sees in them: which colours, in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scripted import Scripted

from mmalign.backbones import Job
from mmalign.records import text_of
from tests.tiny import write_clip

COLOURS = {
    "red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (230, 230, 230),
    "yellow": (220, 210, 10), "pink": (230, 20, 200), "teal": (10, 200, 210),
}  # fmt: skip
SHOT = 12  # frames
FPS = 10


def scene(colour: str, number: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A plain picture with a dark bar that moves with ``number``."""
    width, height = size
    pixels = np.full((height, width, 3), COLOURS[colour], np.uint8)
    left = number * 3 % (width - 8)
    pixels[height // 3 : height // 2, left : left + 8] //= 8
    return Image.fromarray(pixels)


def film(path: Path, colours: Sequence[str], frames: int = SHOT) -> Path:
    """A clip with a shot of each colour, one after the other, at `FPS` frames a second."""
    write_clip(path, [scene(colour, number) for colour in colours for number in range(frames)], FPS)
    return path


def colour_of(picture: Image.Image) -> str:
    mean = np.asarray(picture, np.float64).mean((0, 1))
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


class Watcher(Scripted):
    """Captions clips by their colours, and tells a list of captions, or a clip, as what it saw one after the other."""

    def __init__(self) -> None:
        super().__init__(self._say)
        self.embedded = 0

    def _say(self, job: Job, greedy: bool) -> str:
        asked = text_of(job.messages)
        if listed := re.findall(r"^- Caption \d+: (.*)$", asked, re.MULTILINE):
            return "First " + ", then ".join(listed)
        seen = [colour_of(frame) for frame in job.videos[-1].frames]
        if "video clip" in asked:
            return f"It follows on.\n**Caption: Video clip {len(job.videos)} is a {seen[0]} room.**"
        return f"a {seen[0]} room" if len(seen) == 2 else "I see " + ", then ".join(seen[::2])

    def embed_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        self.embedded += len(images)
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) - 90 for image in images])

    def processor_fingerprint(self) -> str:
        return "watching"
