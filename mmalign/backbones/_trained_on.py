"""Which frames of clips a model was trained on: a file in its folder, for whoever shows it clips later."""

from __future__ import annotations

import json
from pathlib import Path

from mmalign.media import FrameChoice
from mmalign.records import InputError

NAME = "clips.json"
"""Such as ``{"frames": 16, "fps": null, "video_pixels": null}``; flags by these names say the same."""


def read(*folders: str | Path) -> FrameChoice | None:
    """What the last of the folders says that says anything.

    Raises:
        InputError: its file is damaged.
    """
    for folder in reversed(folders):
        file = Path(folder) / NAME
        if file.is_file():
            try:
                said = json.loads(file.read_text(encoding="utf-8"))
                return FrameChoice(said["frames"], said["fps"], said["video_pixels"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError("is damaged: delete it, and say --frames where clips are shown", file=file) from error
    return None


def write(folder: str | Path, choice: FrameChoice) -> None:
    """Keep it beside the weights."""
    said = {"frames": choice.count, "fps": choice.fps, "video_pixels": choice.pixels}
    (Path(folder) / NAME).write_text(json.dumps(said) + "\n", encoding="utf-8")
