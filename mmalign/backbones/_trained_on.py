"""How a model saw clips in its training: a file in its folder, for whoever shows it clips later."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.media import FrameChoice
from mmalign.records import InputError

NAME = "clips.json"
"""Such as ``{"frames": 16, "fps": null, "video_pixels": null, "video": "native"}``; flags by these names say the same.

Older files lack ``video``.
"""


@dataclass(frozen=True)
class TrainedOn:
    """How clips were shown.

    Attributes:
        frames: which frames of each.
        video: ``native`` or ``frames``, see `mmalign.backbones.load`; ``auto`` where that is not known.
    """

    frames: FrameChoice
    video: str = "auto"


def read(*sources: str | Path) -> TrainedOn | None:
    """What the last of the folders or hub names says that says anything.

    Raises:
        InputError: its file is damaged.
    """
    for source in reversed(sources):
        file = _file_of(source)
        if file is not None:
            try:
                return _parse(json.loads(Path(file).read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError) as error:
                advice = "delete it, and say --frames and --video where clips are shown"
                raise InputError(f"is damaged: {advice}", file=file) from error
    return None


def write(folder: str | Path, seen: TrainedOn) -> None:
    """Keep it beside the weights."""
    frames = seen.frames
    said = {"frames": frames.count, "fps": frames.fps, "video_pixels": frames.pixels}
    said |= {} if seen.video == "auto" else {"video": seen.video}
    (Path(folder) / NAME).write_text(json.dumps(said) + "\n", encoding="utf-8")


def _file_of(source: str | Path) -> str | None:
    from transformers.utils import cached_file

    absent = ("gated_repo", "missing_entries", "connection_errors")
    try:
        return cached_file(source, NAME, **{f"_raise_exceptions_for_{kind}": False for kind in absent})
    except OSError:
        return None  # there is no such model: whoever loads it says so


def _parse(said: Any) -> TrainedOn:
    """Raises ValueError, KeyError or TypeError."""
    count, fps, pixels, video = said["frames"], said["fps"], said["video_pixels"], said.get("video", "auto")
    whole = type(count) is int and type(pixels) in (int, type(None)) and type(fps) in (int, float, type(None))
    if not whole or video not in ("native", "frames", "auto"):
        raise ValueError
    return TrainedOn(FrameChoice(count, fps, pixels), video)
