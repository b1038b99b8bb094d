"""Which videos tell a story, and which of their frames tell it: TEMPLE's stages up to the captions.

Each stage that reads pixels is kept by what it depends on (`_stages`); what is worked out from its result is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmalign import media, runs
from mmalign.builders import Drop, Unit, _key_frames, _scenery, _shots
from mmalign.builders._scenery import Run
from mmalign.builders._shots import Shot, ShotOptions
from mmalign.builders._stages import Stages
from mmalign.endpoint import Writer
from mmalign.media import Clip, MediaError, Part
from mmalign.media.files import check_clip
from mmalign.media.folder import check_inside
from mmalign.plugins import check, option
from mmalign.records import InputError, Record, media_path
from mmalign.retrieval.encoders import Encoder, Tower, load_encoder

FRAMES_AT_A_TIME = 8
"""Frames of full size that are held, and embedded."""


@dataclass(frozen=True, eq=False)
class Video:
    """A source's clip, and what was selected of it.

    Attributes:
        source: whose one clip it is.
        path: its file.
        content: fingerprint of the file's bytes.
        shots: those that count.
        runs: of these shots.
        frames: the key frames of each run, in the file.
        pixels: most pixels of a frame that is shown.
    """

    source: Record
    path: Path
    content: str
    shots: tuple[Shot, ...]
    runs: tuple[Run, ...]
    frames: tuple[tuple[int, ...], ...]
    pixels: int

    @property
    def stretches(self) -> list[tuple[Shot, Shot]]:
        """The first and the last shot of each run."""
        return [(self.shots[run.shots[0]], self.shots[run.shots[-1]]) for run in self.runs]

    @cached_property
    def clips(self) -> tuple[Clip, ...]:
        """Each run as a clip of its key frames. Raises MediaError."""
        probed = media.probe(self.path)
        ends = [*probed.times[1:].tolist(), probed.duration]  # of each frame: shots end when their last one begins
        flat = [frame for frames in self.frames for frame in frames]
        pictures = dict(zip(flat, read_frames(self.path, flat, self.pixels), strict=True))
        return tuple(
            Clip(
                tuple(pictures[frame] for frame in frames),
                tuple(float(probed.times[frame]) - first.start for frame in frames),
                frames,
                ends[last.last] - first.start,
            )
            for frames, (first, last) in zip(self.frames, self.stretches, strict=True)
        )

    def shown(self, order: Iterable[int]) -> dict[str, Any]:
        """All that clips of these runs, in this order, depend on."""
        runs = [[self.frames[run], *(shot[:4] for shot in self.stretches[run])] for run in order]
        return {"content": self.content, "runs": runs, "pixels": self.pixels}


def cut_together(clips: Sequence[Clip]) -> Clip:
    """One clip of several, one after the other."""
    starts = np.cumsum([0.0, *(clip.duration for clip in clips)]).tolist()
    return Clip(
        tuple(frame for clip in clips for frame in clip.frames),
        tuple(start + time for start, clip in zip(starts, clips, strict=False) for time in clip.times),
        tuple(index for clip in clips for index in clip.indices),
        starts[-1],
    )


def read_frames(path: Path, frames: Sequence[int], pixels: int) -> list[Image.Image]:
    """Frames of a file by their places, those with more than ``pixels`` made smaller. Raises MediaError."""
    read: list[Image.Image] = []
    for start in range(0, len(frames), FRAMES_AT_A_TIME):
        read += (_within(frame, pixels) for frame in media.read_indices(path, frames[start : start + FRAMES_AT_A_TIME]))
    return read


def _within(frame: Image.Image, pixels: int) -> Image.Image:
    scale = math.sqrt(pixels / (frame.width * frame.height))
    if scale >= 1:
        return frame
    width, height = (max(1, int(side * scale)) for side in frame.size)
    return frame.resize((width, height), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Selection(ShotOptions):
    """Options of which videos are taken, and which frames of them are shown."""

    encoder: str | None = option(
        None, "Image encoder that tells which shots look alike: Hugging Face folder or name (default: the model's own)."
    )
    same_above: float = option(
        0.8,
        "Groups of shots that are more alike than this (cosine) are one; with 1 none are, and no encoder is needed.",
    )
    min_runs: int = option(4, "Videos with fewer runs of shots that look alike are dropped.")
    max_share: int = option(3, "So are those where more than one in this many runs shows the same.")
    max_repeats: int = option(3, "And those where more than this many runs do.")
    key_frames: int = option(2, "Frames that stand for a run.")
    pixels: int = option(401_408, "Most pixels of a frame that is shown; larger ones are made smaller.")
    work: str | None = option(
        None, "Folder that keeps what each stage gave, for any run to use (default: nothing is kept)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "same_above", -1 <= self.same_above <= 1, "from -1 to 1")
        for name in ("min_runs", "max_share", "max_repeats", "key_frames", "pixels"):
            check(self, name, getattr(self, name) >= 1, "1 or more")

    def inputs(self) -> dict[str, str]:
        """The detector, and an encoder that is not the model's own.

        Raises:
            InputError: one of them cannot be had.
        """
        encoder = {"encoder": runs.fingerprint(self._named_encoder.identity())} if self.encoder else {}
        return {"detector": _shots.identity(self.detector), **encoder}

    def check(self, model: Writer) -> None:
        """A model without a vision tower at hand cannot tell shots apart."""
        if self.encoder is None and self.same_above < 1 and not hasattr(model, "embed_images"):
            raise InputError(
                "must be given: a model behind a server embeds no pictures (SigLIP, say: "
                "google/siglip-so400m-patch14-384)",
                field="encoder",
            )

    def select(self, unit: Unit, model: Writer, source: Record) -> Video | Drop:
        """A source's video, or why it is not taken."""
        if len(source.videos) != 1 or source.images:
            found = f"{len(source.videos)} clips, {len(source.images)} pictures"
            return Drop("not_one_video", f"{found}: a source is one clip")
        [name], part = source.videos, Part.of(source.videos[0])
        if part.order is not None:
            return Drop("reordered", f"{name} is a clip that was cut together anew: give it as it was")
        try:
            path = media_path(name, unit.media_root)
            check_inside(path, unit.media_root)
        except MediaError as error:
            return Drop(error.reason, str(error))
        content = _content(path)
        video = content if isinstance(content, Drop) else self._of(model, source, path, content, part)
        if isinstance(video, Drop) and name not in video.detail:
            return Drop(video.reason, f"{video.detail}: {name}")
        return video

    def _of(self, model: Writer, source: Record, path: Path, content: str, part: Part) -> Video | Drop:
        found = self._find_shots(model, path, content, part)
        if isinstance(found, Drop):
            return found
        shots = self.counted([Shot(*shot) for shot in found])
        if refused := self.refusal(shots):
            return refused
        groups = self._find_groups(model, path, content, shots)
        if isinstance(groups, Drop):
            return groups
        found = _scenery.runs_of(groups)
        limits = {"least": self.min_runs, "share": self.max_share, "most": self.max_repeats}
        if refused := _scenery.refusal(found, **limits):
            return refused
        stretches = [(shots[run.shots[0]].first, shots[run.shots[-1]].last) for run in found]
        frames = self._find_key_frames(path, content, stretches)
        if isinstance(frames, Drop):
            return frames
        return Video(source, path, content, tuple(shots), tuple(found), tuple(map(tuple, frames)), self.pixels)

    # ---- stages that are kept --------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> Stages:
        """Where results are kept."""
        return Stages(None if self.work is None else Path(self.work))

    def _find_shots(self, model: Writer, path: Path, content: str, part: Part) -> list | Drop:
        depends_on = [content, part.start, part.end, self._detector_identity, self.shot_threshold]
        find = _or_drop(lambda: _shots.find(path, part, self._detector(model), self.shot_threshold))
        return self.stages.result("shots", depends_on, find)

    def _find_groups(self, model: Writer, path: Path, content: str, shots: Sequence[Shot]) -> list[list[int]] | Drop:
        """Shots that show the same, by their places. Their middle frames are compared."""
        if self.same_above == 1:  # nothing is more alike than that
            return [[place] for place in range(len(shots))]
        alike = self._compare(model, path, content, [(shot.first + shot.last) // 2 for shot in shots])
        return alike if isinstance(alike, Drop) else _scenery.groups(np.array(alike), self.same_above)

    def _compare(self, model: Writer, path: Path, content: str, frames: Sequence[int]) -> list | Drop:
        """How alike the shots of these frames are. Shape: (N, N)."""
        encoder, identity = self._encoder(model)

        def compare() -> list:
            vectors = [
                encoder(read_frames(path, frames[start : start + FRAMES_AT_A_TIME], self.pixels))
                for start in range(0, len(frames), FRAMES_AT_A_TIME)
            ]
            return _scenery.cosines(np.concatenate(vectors)).tolist()

        return self.stages.result("similarity", [content, list(frames), self.pixels, identity], _or_drop(compare))

    def _find_key_frames(self, path: Path, content: str, stretches: list[tuple[int, int]]) -> list | Drop:
        find = _or_drop(lambda: _key_frames.key_frames(path, stretches, self.key_frames))
        return self.stages.result("key_frames", [content, stretches, self.key_frames], find)

    # ---- models of their own ---------------------------------------------------------------------------------

    @cached_property
    def _detector_identity(self) -> str:
        return _shots.identity(self.detector)

    @cached_property
    def _detectors(self) -> dict[str, _shots.Detector]:
        return {}

    def _detector(self, model: Writer) -> _shots.Detector:
        from mmalign.backbones import _default_device  # imports torch

        device = str(getattr(model, "device", None) or _default_device())
        if device not in self._detectors:
            self._detectors[device] = _shots.DETECTORS[self.detector](device)
        return self._detectors[device]

    @cached_property
    def _named_encoder(self) -> Encoder:
        return load_encoder(self.encoder)

    @cached_property
    def _encoders(self) -> dict[Any, tuple[Encoder, dict[str, str]]]:
        return {}

    def _encoder(self, model: Writer) -> tuple[Encoder, dict[str, str]]:
        """With its identity, for which the weights are read: once."""
        if model not in self._encoders:
            encoder = self._named_encoder if self.encoder else Tower(model)
            self._encoders[model] = encoder, encoder.identity()
        return self._encoders[model]


def _content(path: Path) -> str | Drop:
    try:
        check_clip(path)
        return runs.fingerprint(path)
    except MediaError as error:
        return dropped(error)


def dropped(error: MediaError) -> Drop:
    """The drop of a file that cannot be used, without its path: the same bytes may stand elsewhere next time."""
    return Drop(error.reason, error.problem.rpartition(": ")[0] or error.problem)


def _or_drop(make: Callable[[], Any]) -> Callable[[], Any | Drop]:
    """``make``, with the reason why a file cannot be used in place of what it gives."""

    def guarded() -> Any | Drop:
        try:
            return make()
        except MediaError as error:
            return dropped(error)

    return guarded
