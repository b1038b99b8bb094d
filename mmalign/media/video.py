"""Frames of a clip: only those that are wanted are decoded, or a MediaError says why not.

Which part of a file a clip is may stand behind its name, as in W3C's media fragments::

    talk.mp4                     all of it
    talk.mp4#t=12,20.5           from second 12 to second 20.5; #t=12 to the end
    talk.mp4#order=2,0:4         the third and the first of its four quarters, in this order
    talk.mp4#t=12,20&order=1,0:2 the halves of a part, exchanged
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mmalign.media._cache import FrameCache
from mmalign.media._process import wanted_reader
from mmalign.media.choice import FRAMES, WHOLE, FrameChoice, Part, choose, fitted
from mmalign.media.files import opened
from mmalign.media.folder import check_inside
from mmalign.records import InputError, MediaError, media_path


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of a clip.

    Attributes:
        frames: in the order in which they are shown, mode RGB, upright, all of one size; at least one.
        times: seconds from the beginning of what is shown, of each.
        indices: which frames of the file they are, counted from 0.
        duration: of what is shown, in seconds.

    Raises:
        InputError: there are no frames, they differ in size, or there are not as many times and indices.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    indices: tuple[int, ...]
    duration: float

    def __post_init__(self) -> None:
        if not self.frames:
            raise InputError("a clip has no frames")
        if len(sizes := {frame.size for frame in self.frames}) > 1:
            found = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise InputError(f"the frames of a clip differ in size: {found}")
        if not len(self.frames) == len(self.times) == len(self.indices):
            counts = f"{len(self.frames)} frames, {len(self.times)} times, {len(self.indices)} indices"
            raise InputError(f"a clip needs a time and an index for each frame: {counts}")


def open_clip(name: str, media_root: str | Path, choice: FrameChoice = FRAMES) -> Clip:
    """The frames of a record's clip; see `read_clip`, and the top of this page for names."""
    path = media_path(name, media_root)
    if "#" in path.name and not path.exists() and path.with_name(path.name.rpartition("#")[0]).exists():
        raise MediaError(f"#{path.name.rpartition('#')[2]} says no part of a clip: {name}", reason="out_of_range")
    check_inside(path, Path(media_root))
    return read_clip(path, choice, Part.of(name))


def read_clip(path: str | Path, choice: FrameChoice = FRAMES, part: Part = WHOLE) -> Clip:
    """The frames of a clip that ``choice`` asks for.

    ``path`` is a video file or a folder of pictures, one a second.

    Raises:
        InputError: nothing is installed that reads clips.
        MediaError: with reason missing, unreadable (no video file), no_video (sound alone), truncated (cut short, or a
            frame that is wanted cannot be decoded), too_large, out_of_range (what is asked for is not in the clip),
            timeout or crashed (of the decoder).
    """
    path, cache = Path(path), FrameCache.of_environment()
    entry = cache and cache.entry(path, choice, part, wanted_reader())
    if entry and (found := cache.find(entry)):
        about, frames = found
        return Clip(tuple(frames), tuple(about["times"]), tuple(about["indices"]), about["duration"])
    clip = _read(path, choice, part)
    if entry:
        about = {"times": clip.times, "indices": clip.indices, "duration": clip.duration}
        cache.keep(entry, about, clip.frames)
    return clip


def _read(path: Path, choice: FrameChoice, part: Part) -> Clip:
    with opened(path) as clip:
        try:
            chosen = choose(clip.times, clip.duration, choice, part)
        except MediaError as error:
            raise MediaError(f"{error.problem}: {path}", reason=error.reason) from None
        wanted = sorted(set(chosen.indices.tolist()))
        size = fitted(*clip.size, len(chosen.indices), choice.pixels)
        found = dict(zip(wanted, clip.frames(wanted, size), strict=True))
    frames = tuple(found[place] for place in chosen.indices.tolist())
    return Clip(frames, tuple(chosen.times.tolist()), tuple(chosen.indices.tolist()), chosen.duration)


def as_pictures(messages: Sequence[dict], pictures: Sequence[list], clips: Sequence[list]) -> tuple[list[dict], list]:
    """Messages with an image placeholder for each frame of a clip, and what stands for them, in their order.

    For models that know no clips.

    Args:
        messages: a prompt with a block for every picture and clip.
        pictures: a list of one for each image placeholder.
        clips: the frames for each video placeholder.

    Raises:
        InputError: placeholders and media differ in number.
    """
    for kind, given in (("image", pictures), ("video", clips)):
        found = sum(block["type"] == kind for message in messages for block in message["content"])
        if found != len(given):
            raise InputError(f"{found} {kind} placeholders in the prompt, but {len(given)} {kind}s", field="prompt")
    left = {"image": iter(pictures), "video": iter(clips)}
    shown: list = []
    written = []
    for message in messages:
        blocks: list[dict[str, str]] = []
        for block in message["content"]:
            if block["type"] not in left:
                blocks.append(block)
                continue
            media = next(left[block["type"]])
            shown += media
            blocks += [{"type": "image"}] * (len(media) if block["type"] == "video" else 1)
        written.append({**message, "content": blocks})
    return written, shown
