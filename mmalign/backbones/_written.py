"""A templated prompt to tokens: all that stands for its pictures and clips is written out by the model's processor.

Legend of shapes: P tokens of a prompt, Q of them that are text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.media import Clip
from mmalign.records import MediaError

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone

_TOKENWISE = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What processors give beside media, a value a token."""

Medium = Image.Image | Clip


@dataclass(frozen=True)
class Part:
    """What a processor makes of pictures, or of one clip.

    Attributes:
        kind: ``image`` or ``video``.
        inputs: of the tower, and what positions follow from.
    """

    kind: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A prompt's tokens, and its media in their order.

    Attributes:
        input_ids: Shape: (P,).
        text_places: where text is, without all that stands for media. Shape: (Q,).
        parts: of the media, in the prompt's order; the pictures of a prompt may be one part, and then come first.
    """

    input_ids: Tensor
    text_places: Tensor
    parts: list[Part]


class Refused(Exception):
    """What a processor says of a picture, a frame or a clip that it does not take."""

    def __init__(self, medium: Medium, problem: str) -> None:
        super().__init__(problem)
        self.medium = medium

    def located(self, images: Sequence[Image.Image], clips: Sequence[Clip]) -> MediaError:
        """The error that says which of a prompt's pictures and clips it is, or which has the frame."""
        shown = [(f"images[{i}]", [image]) for i, image in enumerate(images)]
        shown += [(f"videos[{i}]", [clip, *clip.frames]) for i, clip in enumerate(clips)]
        field = next(name for name, objects in shown if any(each is self.medium for each in objects))
        frame = self.medium.frames[0] if isinstance(self.medium, Clip) else self.medium
        problem = f"the model's processor takes no {frame.width} x {frame.height} pixels: {self}"
        return MediaError(problem, reason="refused", field=field)


class Processed:
    """What the processor makes of pictures and clips, which asks it once for the same objects.

    Args:
        most: how many answers are held, the latest; all of them by default.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._held: dict[Hashable, tuple[Sequence[Medium], Part, list[str]]] = {}

    def of(self, backbone: Backbone, kind: str, media: Sequence[Medium]) -> tuple[Part, list[str]]:
        """The part that they are of a prompt, and what stands in its text for each. Raises Refused."""
        name = kind, *map(id, media)
        found = self._held.pop(name, None) or (media, *_processed(backbone, kind, media))
        self._held[name] = found  # with the objects: as long as these live, nothing else has their ids
        if self.most is not None and len(self._held) > self.most:
            del self._held[next(iter(self._held))]
        return found[1:]


def write(
    backbone: Backbone, text: str, images: Sequence[Image.Image], clips: Sequence[Clip], processed: Processed
) -> Written:
    """Write a templated prompt out; it has as many placeholders of each kind as there are media."""
    marks = "|".join(f"(?P<{kind}>{re.escape(mark)})" for kind, mark in backbone.marks.items())
    kinds = [found.lastgroup for found in re.finditer(marks, text)]
    parts, written = [], {"image": [], "video": []}
    for kind, media in _portions(kinds, images, clips, apart=backbone.clips_apart or not clips):
        part, texts = processed.of(backbone, kind, media)
        parts.append(part)
        written[kind] += texts
    return Written(*_tokens(backbone, text, kinds, written), parts)


def _portions(
    kinds: Sequence[str], images: Sequence[Image.Image], clips: Sequence[Clip], *, apart: bool
) -> Iterator[tuple[str, Sequence[Medium]]]:
    """What is processed in one call: one medium after the other as they stand in the prompt, or all pictures first.

    Each clip is always processed for itself: transformers takes several at once only if all have as many frames.
    """
    if apart and images:
        yield "image", images
    left = {"image": iter(images), "video": iter(clips)}
    for kind in kinds:
        if kind == "video" or not apart:
            yield kind, [next(left[kind])]


def _processed(backbone: Backbone, kind: str, media: Sequence[Medium]) -> tuple[Part, list[str]]:
    """The processor's answer to placeholders alone. Raises Refused."""
    text = backbone.marks[kind] * len(media)
    places = {"return_text_replacement_offsets": True}
    try:
        inputs = dict(backbone.process(text=[text], return_tensors="pt", **places, **_arguments(backbone, kind, media)))
    except ValueError as error:
        if len(media) > 1:
            for each in media:
                _processed(backbone, kind, [each])  # says which of them it is
        raise Refused(media[0], str(error)) from error
    (replaced,) = inputs.pop("text_replacement_offsets")
    part = Part(kind, {name: value for name, value in inputs.items() if name not in _TOKENWISE})
    return part, [each["replacement"] for each in replaced]


def _arguments(backbone: Backbone, kind: str, media: Sequence[Medium]) -> dict[str, Any]:
    """Of the processor, for pictures or for a clip, whose frames are chosen already."""
    from transformers.video_utils import VideoMetadata

    if kind == "image":
        return {"images": list(media)}
    (clip,) = media
    frames, times = [*map(np.asarray, clip.frames)], [*clip.times]
    missing = max(0, backbone.least_frames - len(frames))
    frames, times = frames + frames[-1:] * missing, times + times[-1:] * missing
    # Seconds are counted as if they were frames, one a second: so every processor's formula gives the clip's own times,
    # though its rate may vary, and though it may be a part of a file in another order.
    seconds = clip.duration or float(len(frames))
    metadata = VideoMetadata(total_num_frames=seconds, fps=1.0, frames_indices=times, duration=seconds)
    return {
        "videos": [[np.stack(frames)]],
        "video_metadata": [metadata],
        "do_sample_frames": False,
        "input_data_format": "channels_last",
    }


def _tokens(
    backbone: Backbone, text: str, kinds: Sequence[str], written: dict[str, list[str]]
) -> tuple[Tensor, Tensor]:
    """Tokens of a text whose placeholders are written out, and the places of those that are text."""
    left = {kind: iter(texts) for kind, texts in written.items()}
    between = re.split("|".join(map(re.escape, backbone.marks.values())), text)
    whole, spans = between[0], []
    for kind, after in zip(kinds, between[1:], strict=True):
        start = len(whole)
        whole += next(left[kind])
        spans.append((start, len(whole)))
        whole += after
    special = backbone.adds_special_tokens(text)
    encoded = backbone.tokenizer(whole, add_special_tokens=special, return_offsets_mapping=True)
    return torch.tensor(encoded["input_ids"]), _outside(encoded["offset_mapping"], spans)


def _outside(offsets: Sequence[Sequence[int]], spans: Sequence[Sequence[int]]) -> Tensor:
    """Which tokens have no character inside the spans. Shape: (Q,)."""
    bounds = np.array([*spans], dtype=int).reshape(-1, 2)
    starts, stops = np.array(offsets, dtype=int).reshape(-1, 2).T
    # Spans follow each other, so the first that ends behind a token's start is the one that it may lie in.
    number = np.searchsorted(bounds[:, 1], starts, side="right")
    begins = np.append(bounds[:, 0], np.iinfo(int).max)[number]
    return torch.from_numpy(np.flatnonzero(stops <= begins))
