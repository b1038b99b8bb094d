"""Options of which frames of clips are looked at; what builders that look at clips are made from."""

from __future__ import annotations

from dataclasses import dataclass

from mmalign.media import FRAMES, FrameChoice
from mmalign.plugins import check, option


@dataclass(frozen=True)
class Frames:
    """Which frames of each clip the model sees."""

    frames: int = option(FRAMES.count, "Frames of each clip, evenly spaced; with --fps, the most of them.")
    fps: float | None = option(None, "Frames of each second, as long as there are no more than --frames in all.")
    video_pixels: int | None = option(None, "Most pixels of all frames of a clip together; larger ones are shrunk.")

    def __post_init__(self) -> None:
        check(self, "frames", self.frames >= 1, "1 or more")
        check(self, "fps", self.fps is None or 0 < self.fps < float("inf"), "above 0")
        check(self, "video_pixels", self.video_pixels is None or self.video_pixels >= 1, "1 or more")

    @property
    def choice(self) -> FrameChoice:
        """What the options say."""
        return FrameChoice(self.frames, self.fps, self.video_pixels)
