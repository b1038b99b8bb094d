"""The audit's questions about tokens: how long records are for a model, media included."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmalign.media import FrameChoice, as_pictures, open_clip
from mmalign.records import InputError, Messages, Record, user_message
from mmalign.reports.audit import Finding, Row, Tally, percent
from mmalign.reports.audit_pictures import Pictures

if TYPE_CHECKING:
    from mmalign.backbones import Backbone

Sizes = tuple[tuple[int, int], ...]


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

    How many tokens pictures take depends on their sizes alone, in every family, so blank ones are measured, once for
    each combination of sizes.

    Args:
        backbone: whose template, tokenizer and image processor count; its weights may be on ``meta``.
        pictures: which know the sizes.
        frames: of each clip.
    """

    def __init__(self, backbone: Backbone, pictures: Pictures, frames: int = 8) -> None:
        self.backbone, self.pictures, self.frames = backbone, pictures, frames
        self._clips: dict[str, Sizes] = {}
        self._media_tokens = lru_cache(maxsize=1 << 14)(self._measure)

    def __call__(self, record: Record) -> Length | None:
        """The lengths of a record; None where a medium cannot be opened.

        Raises:
            InputError: its texts cannot be encoded for this model.
        """
        own = self._sizes(record, record.images, record.videos)
        negative = self._sizes(record, *record.negative_media)
        if own is None or negative is None:
            return None
        prompts = [self._prompt(record, record.prompt, own)]
        if negative != own:
            prompts.append(self._prompt(record, record.prompt, negative))
        if record.rejected_prompt:
            prompts.append(self._prompt(record, record.rejected_prompt, own))
        text, media = max(prompts, key=sum)
        return Length(text + media, media, self._responses(record, own))

    def _sizes(self, record: Record, images: tuple[str, ...], videos: tuple[str, ...]) -> list[Sizes] | None:
        """Of each picture a tuple of one size, of each clip the sizes of its frames."""
        found = [self._of_picture(name) for name in images] + [self._of_clip(name) for name in videos]
        return None if None in found else found

    def _of_picture(self, name: str) -> Sizes | None:
        signature = self.pictures.of(name)
        return (signature.size,) if signature else None

    def _of_clip(self, name: str) -> Sizes | None:
        if name not in self._clips:
            try:
                clip = open_clip(name, self.pictures.root, FrameChoice(self.frames))
                self._clips[name] = tuple(frame.size for frame in clip.frames)
            except InputError:
                self._clips[name] = None
        return self._clips[name]

    def _prompt(self, record: Record, messages: Messages, media: list[Sizes]) -> tuple[int, int]:
        """Tokens of the templated text without media, and of its media."""
        messages, sizes = self._as_pictures(record, messages, media)
        text = self.backbone.template(messages, generation_prompt=True)
        special = self.backbone.adds_special_tokens(text)
        return len(self.backbone.tokenizer(text, add_special_tokens=special)["input_ids"]) - len(sizes), (
            self._media_tokens(tuple(sizes)) if sizes else 0
        )

    def _as_pictures(self, record: Record, messages: Messages, media: list[Sizes]) -> tuple[Messages, list]:
        cut = len(record.images)
        return as_pictures(messages, media[:cut], media[cut:])

    def _measure(self, sizes: Sizes) -> int:
        """Tokens that pictures of these sizes become."""
        prompt = [user_message("", images=len(sizes))]
        text = self.backbone.template(prompt, generation_prompt=True)
        special = self.backbone.adds_special_tokens(text)
        bare = len(self.backbone.tokenizer(text, add_special_tokens=special)["input_ids"]) - len(sizes)
        context = self.backbone.encode_prompt(prompt, [Image.new("RGB", size) for size in sizes])
        return len(context.input_ids) - bare

    def _responses(self, record: Record, media: list[Sizes]) -> dict[str, int]:
        prompt, _ = self._as_pictures(record, record.prompt, media)
        texts = {name: getattr(record, name) for name in ("chosen", "rejected", "gold")}
        texts |= {f"responses[{i}]": [response.message] for i, response in enumerate(record.responses or ())}
        encode = self.backbone.encode_response
        return {name: len(encode(prompt, answer).input_ids) for name, answer in texts.items() if answer}


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


def load_counter(model: str | Path, pictures: Pictures, frames: int) -> TokenCounter:
    """A counter for a Hugging Face folder or name, without its weights; raises InputError."""
    from mmalign import backbones

    return TokenCounter(backbones.load(model, device="meta"), pictures, frames)
