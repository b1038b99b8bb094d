"""The audit's questions about tokens: how long records are for a model, media included."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmalign.media import FRAMES, Clip, FrameChoice, as_pictures, open_clip
from mmalign.records import InputError, Messages, Record, user_message
from mmalign.reports.audit import Finding, Row, Tally, percent
from mmalign.reports.audit_pictures import Pictures

if TYPE_CHECKING:
    from mmalign.backbones import Backbone

Size = tuple[int, int]


@dataclass(frozen=True)
class Outline:
    """What of a clip its tokens follow from.

    Attributes:
        size: width and height of its frames.
        times: seconds of each.
        duration: in seconds.
    """

    size: Size
    times: tuple[float, ...]
    duration: float

    def blank(self) -> Clip:
        """A clip of this outline that shows nothing."""
        count = len(self.times)
        return Clip((Image.new("RGB", self.size),) * count, self.times, tuple(range(count)), self.duration)


class Clips:
    """Outlines of the clips of a record file. Called on a name it opens the clip, to be done once for each.

    Args:
        frames: which of each are looked at.
    """

    def __init__(self, frames: FrameChoice = FRAMES) -> None:
        self.frames = frames
        self._by_name: dict[str, Outline] = {}

    def __call__(self, name: str, root: Path) -> None:
        """Open a clip that a record names and keep its outline; raises InputError."""
        clip = open_clip(name, root, self.frames)
        self._by_name[name] = Outline(clip.frames[0].size, clip.times, clip.duration)

    def of(self, name: str) -> Outline | None:
        """The outline of a clip that a record names; None where it was not opened or could not be."""
        return self._by_name.get(name)


@dataclass(frozen=True)
class Length:
    """Tokens of one record: of its longest prompt, how many of these for media, and of each response."""

    prompt: int
    media: int
    responses: dict[str, int]

    @property
    def whole(self) -> int:
        """The longest prompt with the longest response, as `mmalign.forward.EncodedRecord.length` counts."""
        return self.prompt + max(self.responses.values())


class TokenCounter:
    """Counts the tokens of records as training does, without a weight and without a pixel.

    How many tokens media take depends on the sizes of pictures, and on the outlines of clips, so blank ones are shown
    to the processor: pictures, and clips that are shown as pictures, once for each combination of sizes; native clips
    in their prompt, since what is written for them has text in it.

    Args:
        backbone: whose template, tokenizer and processor count; its weights may be on ``meta``.
        pictures: which know the sizes.
        clips: which know the outlines.
    """

    def __init__(self, backbone: Backbone, pictures: Pictures, clips: Clips) -> None:
        self.backbone, self.pictures, self.clips = backbone, pictures, clips
        self._media_tokens = lru_cache(maxsize=1 << 14)(self._measure)

    def __call__(self, record: Record) -> Length | None:
        """The lengths of a record; None where a medium cannot be opened.

        Raises:
            InputError: its texts cannot be encoded for this model.
        """
        own = self._media(record.images, record.videos)
        negative = self._media(*record.negative_media)
        if own is None or negative is None:
            return None
        prompts = [self._prompt(record.prompt, *own)]
        if negative != own:
            prompts.append(self._prompt(record.prompt, *negative))
        if record.rejected_prompt:
            prompts.append(self._prompt(record.rejected_prompt, *own))
        text, media = max(prompts, key=sum)
        return Length(text + media, media, self._responses(record))

    def _media(self, images: tuple[str, ...], videos: tuple[str, ...]) -> tuple[list[Size], list[Outline]] | None:
        signatures = [self.pictures.of(name) for name in images]
        clips = [self.clips.of(name) for name in videos]
        return None if None in signatures or None in clips else ([each.size for each in signatures], clips)

    def _prompt(self, messages: Messages, pictures: list[Size], clips: list[Outline]) -> tuple[int, int]:
        """Tokens of the templated text without media, and of its media."""
        if clips and self.backbone.native_video:
            shown = {"videos": [clip.blank() for clip in clips], "text_places": True}
            context = self.backbone.encode_prompt(messages, _blank(pictures), **shown)
            text = len(context.text_places)
            return text, len(context.input_ids) - text
        frames = [[clip.size] * len(clip.times) for clip in clips]
        messages, sizes = as_pictures(messages, [[size] for size in pictures], frames)
        return self._bare(messages, len(sizes)), self._media_tokens(tuple(sizes)) if sizes else 0

    def _bare(self, messages: Messages, pictures: int) -> int:
        """Tokens of a prompt without those that stand for its pictures, one each before they are written out."""
        text = self.backbone.template(messages, generation_prompt=True)
        special = self.backbone.adds_special_tokens(text)
        return len(self.backbone.tokenizer(text, add_special_tokens=special)["input_ids"]) - pictures

    def _measure(self, sizes: tuple[Size, ...]) -> int:
        """Tokens that pictures of these sizes become."""
        prompt = [user_message("", images=len(sizes))]
        return len(self.backbone.encode_prompt(prompt, _blank(sizes)).input_ids) - self._bare(prompt, len(sizes))

    def _responses(self, record: Record) -> dict[str, int]:
        texts = {name: getattr(record, name) for name in ("chosen", "rejected", "gold")}
        texts |= {f"responses[{i}]": [response.message] for i, response in enumerate(record.responses or ())}
        encode = self.backbone.encode_response
        return {name: len(encode(record.prompt, answer).input_ids) for name, answer in texts.items() if answer}


def _blank(sizes: Sequence[Size]) -> list[Image.Image]:
    return [Image.new("RGB", size) for size in sizes]


@dataclass
class TokenLengths:
    """How long the records are for a model, and how many do not fit.

    Attributes:
        counter: of one record.
        max_length: as in training; None for no limit.
    """

    counter: TokenCounter
    max_length: int | None = None
    lengths: array = field(default_factory=lambda: array("L"))
    media: array = field(default_factory=lambda: array("L"))
    long: Tally = field(default_factory=Tally)
    hopeless: Tally = field(default_factory=Tally)
    refused: Tally = field(default_factory=Tally)
    reason: str = ""
    latest: Length | None = None

    def add(self, row: Row) -> None:
        """See `Check`."""
        try:
            self.latest = self.counter(row.record)
        except InputError as error:
            self.latest, self.reason = None, self.reason or error.problem
            self.refused.add(row.line)
        if self.latest is None:
            return
        self.lengths.append(self.latest.whole)
        self.media.append(self.latest.media)
        if self.max_length is not None and self.latest.whole > self.max_length:
            self.long.add(row.line)
            if self.latest.prompt >= self.max_length:
                self.hopeless.add(row.line)

    def of_pair(self, row: Row) -> tuple[int, int] | None:
        """Tokens of the better and the worse text of the row that was added last, where these are two."""
        if self.latest is None or row.places is None or row.chosen == row.rejected:
            return None
        better, worse = row.places
        return self.latest.responses[better], self.latest.responses[worse]

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        if self.lengths:
            numbers = _spread(self.lengths) | {f"media_{name}": value for name, value in _spread(self.media).items()}
            yield Finding(
                "tokens",
                False,
                f"Tokens of the longest prompt with the longest response: {_said(_spread(self.lengths))}; of its "
                f"media: {_said(_spread(self.media))}.",
                numbers=numbers,
            )
        if self.long.count:
            yield Finding(
                "too_long",
                True,
                f"Longer than --max_length {self.max_length}: {self.long.count} of {len(self.lengths)} records "
                f"({percent(self.long.count / len(self.lengths))}), {self.hopeless.count or 'none'} of them by prompt "
                "and media alone, which shortening cannot help.",
                self.long.count,
                tuple(self.long.lines),
                numbers={"max_length": self.max_length, "prompt_alone": self.hopeless.count},
            )
        if self.refused.count:
            yield Finding(
                "not_encodable",
                True,
                f"{self.refused.count} records cannot be encoded for this model: {self.reason}.",
                self.refused.count,
                tuple(self.refused.lines),
            )


def _spread(values: array) -> dict[str, float]:
    numbers = np.array(values)
    low, middle, most = np.percentile(numbers, [0, 50, 95], method="lower").tolist()
    return {"min": low, "median": middle, "p95": most, "max": int(numbers.max())}


def _said(spread: dict[str, float]) -> str:
    if spread["min"] == spread["max"]:
        return f"always {spread['min']}"
    return "{min} to {max}, median {median}, 95% up to {p95}".format(**spread)


def load_counter(model: str | Path, pictures: Pictures, clips: Clips, video: str = "auto") -> TokenCounter:
    """A counter for a Hugging Face folder or name, without its weights.

    Args:
        video: see `mmalign.backbones.load`.

    Raises:
        InputError: it cannot be loaded.
    """
    from mmalign import backbones

    return TokenCounter(backbones.load(model, device="meta", video=video), pictures, clips)
