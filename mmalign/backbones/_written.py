"""A templated prompt to tokens: all that stands for its pictures and clips is written out by the model's processor.

Legend of shapes: P tokens of a prompt, Q of them that are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.media import Clip

if TYPE_CHECKING:
    from mmalign.backbones._backbone import Backbone

_TOKENWISE = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What processors give beside media, a value a token."""


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


def write(backbone: Backbone, text: str, images: Sequence[Image.Image], clips: Sequence[Clip]) -> Written:
    """Write a templated prompt out; it has as many placeholders of each kind as there are media."""
    if clips:
        return _with_clips(backbone, text, images, clips)
    inputs = _call(backbone, text, images=list(images) or None)
    (offsets,), (written,) = inputs.pop("offset_mapping"), inputs.pop("text_replacement_offsets")
    ids, media = inputs["input_ids"][0], {k: v for k, v in inputs.items() if k not in _TOKENWISE}
    places = _outside(offsets.tolist(), [each["new_span"] for each in written])
    return Written(ids, places, [Part("image", media)] if images else [])


def _with_clips(backbone: Backbone, text: str, images: Sequence[Image.Image], clips: Sequence[Clip]) -> Written:
    """Each clip is processed for itself: transformers takes several at once only if all have as many frames."""
    marks = backbone.marks
    kinds = [
        found.lastgroup for found in re.finditer("|".join(f"(?P<{k}>{re.escape(m)})" for k, m in marks.items()), text)
    ]
    parts, written = [], {"image": [], "video": []}
    for kind, media in _portions(kinds, images, clips, apart=backbone.clips_apart):
        inputs = _call(backbone, marks[kind] * len(media), **_arguments(backbone, kind, media))
        (replaced,) = inputs.pop("text_replacement_offsets")
        written[kind] += [each["replacement"] for each in replaced]
        parts.append(Part(kind, {k: v for k, v in inputs.items() if k not in (*_TOKENWISE, "offset_mapping")}))
    return Written(*_tokens(backbone, text, kinds, written), parts)


def _portions(
    kinds: Sequence[str], images: Sequence[Image.Image], clips: Sequence[Clip], *, apart: bool
) -> Iterator[tuple[str, Sequence[Any]]]:
    """What is processed in one call: one medium after the other as they stand in the prompt, or all pictures first."""
    if apart and images:
        yield "image", images
    left = {"image": iter(images), "video": iter(clips)}
    for kind in kinds:
        if kind == "video" or not apart:
            yield kind, [next(left[kind])]


def _arguments(backbone: Backbone, kind: str, media: Sequence[Any]) -> dict[str, Any]:
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


def _call(backbone: Backbone, text: str, **media: Any) -> dict[str, Any]:
    """The processor's answer, with where in the text it wrote what."""
    special = backbone.adds_special_tokens(text)
    places = {"return_text_replacement_offsets": True, "return_offsets_mapping": True}
    return dict(backbone.process(text=[text], return_tensors="pt", add_special_tokens=special, **places, **media))


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
