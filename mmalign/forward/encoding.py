"""Records to tokens and pixels, one at a time: what data workers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mmalign.backbones import Backbone, Context, Processed, Response
from mmalign.media import FRAMES, Clip, FrameChoice, open_clip, open_image
from mmalign.records import (
    InputError,
    Messages,
    Record,
    RecordFile,
    assistant_message,
    media_path,
    text_of,
    user_message,
)
from mmalign.records import Response as RankedResponse

if TYPE_CHECKING:
    from mmalign.forward.precomputed import PrecomputedReference

RESPONSES = ("chosen", "rejected", "gold", "responses")
CONTEXTS = ("", "rejected_media", "rejected_prompt")


@dataclass(frozen=True)
class EncodedRecord:
    """One record, ready to be laid out.

    Attributes:
        contexts: the prompts that the views stand in, by context name (``""``: the record's own).
        responses: the responses by name; a list of K for ``responses``, one otherwise.
        numbers: the record's own numbers, by name (`mmalign.objectives.NUMBERS`); those it lacks are left out.
        counted: False for a filler: it runs but adds to no sum. It evens out the last step, or stands in the place of a
            record that was too long.
        fate: ``shortened`` or ``dropped``, if the record was too long.
        known: what the reference said of each view's responses, if that was computed before (`PrecomputedReference`).
    """

    contexts: dict[str, Context]
    responses: dict[str, list[Response]]
    numbers: dict[str, float | list[float]]
    counted: bool = True
    fate: str = ""
    known: dict[str, list[dict[str, Tensor]]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens of the longest prompt with the longest response. They need not meet in a view, so that is a bound."""
        responses = (response for several in self.responses.values() for response in several)
        return max(len(c.input_ids) for c in self.contexts.values()) + max(len(r.input_ids) for r in responses)


def split_view(view: str) -> tuple[str, str]:
    """``chosen@rejected_media`` -> (``chosen``, ``rejected_media``)."""
    response, _, context = view.partition("@")
    if response not in RESPONSES or context not in CONTEXTS:
        raise ValueError(f"no such view: {view!r}")
    return response, context


@dataclass(frozen=True)
class Encoder:
    """Encodes the parts of a record that an objective's views ask for.

    Attributes:
        backbone: whose template, tokenizer and image processor are used.
        views: what the objective scores. A view that a record lacks is left out of its `EncodedRecord`, as long
            as there is another that it has.
        frames: which of each clip.
        prompts: whether the text of prompts will be scored too.
        max_length: most tokens of a prompt, media included, with one response; None for no limit.
        too_long: what happens to a record beyond it: ``shorten`` cuts the ends of its responses off, never its prompt
            or media, and drops it where these alone leave no room; ``drop`` puts a filler in its place; ``error``.
    """

    backbone: Backbone
    views: tuple[str, ...]
    max_length: int | None = None
    too_long: str = "error"
    frames: FrameChoice = FRAMES
    prompts: bool = False

    def __call__(self, record: Record, media_root, *, counted: bool = True) -> EncodedRecord:
        """Encode one record.

        Raises:
            InputError: the record has none of the views, is too long, or its text does not fit the model.
            MediaError: a picture or clip cannot be opened, or the model's processor does not take it.
        """
        wanted = [split_view(view) for view in self.views]
        usable = [(r, c) for r, c in wanted if getattr(record, r) and has_context(record, c)]
        if not usable:
            raise InputError(f"has none of {', '.join(self.views)}, which the objective needs")
        opened, processed = _Opened(media_root, self.frames), Processed()
        contexts = {name: self._context(record, name, opened, processed) for name in {c for _, c in usable}}
        responses = {name: self._responses(record, name) for name in {r for r, _ in usable}}
        return self._fitted(EncodedRecord(contexts, responses, record_numbers(record), counted))

    def _fitted(self, record: EncodedRecord) -> EncodedRecord:
        """The record, or what becomes of it if it is too long."""
        if self.max_length is None or record.length <= self.max_length:
            return record
        if self.too_long == "error":
            raise InputError(
                f"is {record.length} tokens long, more than --max_length {self.max_length}: "
                "say --too_long shorten or drop, or leave it out"
            )
        room = self.max_length - max(len(context.input_ids) for context in record.contexts.values())
        if self.too_long == "drop" or room < 1:
            return replace(self.filler, fate="dropped" if record.counted else "")
        cut = {name: [r.first(room) for r in several] for name, several in record.responses.items()}
        return replace(record, responses=cut, fate="shortened" if record.counted else "")

    @cached_property
    def filler(self) -> EncodedRecord:
        """The shortest record with all views: it keeps a place that nothing else can take."""
        prompt = [user_message("")]
        context, response = (
            self.backbone.encode_prompt(prompt, text_places=self.prompts),
            self.backbone.encode_response(prompt, [assistant_message(".")]),
        )
        names = [split_view(view) for view in self.views]
        return EncodedRecord({c: context for _, c in names}, {r: [response] for r, _ in names}, {}, counted=False)

    def _context(self, record: Record, name: str, opened: _Opened, processed: Processed) -> Context:
        _, *media_key = _prompt_and_media(record, name)
        seen = _shown(record, opened, name)
        options = {"media_key": tuple(media_key), "text_places": self.prompts, "processed": processed}
        try:
            return self.backbone.encode_prompt(seen.messages, seen.images, videos=seen.videos, **options)
        except InputError as error:
            error.field = error.field and _own_field(error.field, record, name)
            raise

    def _responses(self, record: Record, name: str) -> list[Response]:
        if name == "responses":
            return [
                self.backbone.encode_response(record.prompt, [response.message], response.spans or ())
                for response in record.responses
            ]
        spans = getattr(record, f"{name}_spans", None) or ()
        return [self.backbone.encode_response(record.prompt, getattr(record, name), spans)]


class Shown(NamedTuple):
    """A prompt with what it shows, opened: pictures and clips, each kind in the order of its placeholders."""

    messages: Messages
    images: tuple[Image.Image, ...]
    videos: tuple[Clip, ...]


class _Opened:
    """Pictures and clips by their names, each of which is opened once."""

    def __init__(self, media_root, frames: FrameChoice) -> None:
        self.picture = cache(lambda name: open_image(media_path(name, media_root)))
        self.clip = cache(lambda name: open_clip(name, media_root, frames))


def shown(record: Record, media_root, frames: FrameChoice, context: str = "") -> Shown:
    """A record's prompt, and what it shows.

    Args:
        frames: which of each clip.
        context: of a view; see `CONTEXTS`.

    Raises:
        InputError: nothing is installed that reads clips.
        MediaError: a file cannot be opened.
    """
    return _shown(record, _Opened(media_root, frames), context)


def _shown(record: Record, opened: _Opened, context: str) -> Shown:
    messages, images, videos = _prompt_and_media(record, context)
    pictures = open_media(images, _own_field("images", record, context), opened.picture)
    clips = open_media(videos, _own_field("videos", record, context), opened.clip)
    return Shown(messages, pictures, clips)


def _prompt_and_media(record: Record, context: str) -> tuple[Messages, tuple[str, ...], tuple[str, ...]]:
    """Prompt, images and videos that a context is made of."""
    messages = record.rejected_prompt if context == "rejected_prompt" else record.prompt
    if context == "rejected_media":
        return messages, *record.negative_media
    return messages, record.images, record.videos


def _own_field(field: str, record: Record, context: str) -> str:
    """The record's name for what a context has for a prompt's ``images[0]``, say: that, or ``rejected_images[0]``."""
    whole = field.partition("[")[0]
    exchanged = {"rejected_media": ("images", "videos"), "rejected_prompt": ("prompt",)}.get(context, ())
    return f"rejected_{field}" if whole in exchanged and getattr(record, f"rejected_{whole}") else field


def has_context(record: Record, name: str) -> bool:
    """Whether the record has what the context of a view is made of."""
    if name == "rejected_media":
        return bool(record.rejected_images or record.rejected_videos)
    return name != "rejected_prompt" or record.rejected_prompt is not None


def record_numbers(record: Record) -> dict[str, float | list[float]]:
    """The record's own numbers that objectives may use, by the names of `mmalign.objectives.NUMBERS`.

    Those that it lacks are left out; a margin is of scores that both responses have.
    """
    numbers = {name: getattr(record, name) for name in ("weight", "strength", "difficulty")}
    numbers["density"] = record.rejected_scores.get("density")
    for name in record.chosen_scores.keys() & record.rejected_scores.keys():
        key = "margin" if name == "reward" else f"margin/{name}"
        numbers[key] = record.chosen_scores[name] - record.rejected_scores[name]
    found = {name: float(value) for name, value in numbers.items() if value is not None}
    if record.responses:
        found["scores"] = [_score(response) for response in record.responses]
    return found


def _score(response: RankedResponse) -> float:
    """How good one of a ranked list is: its reward, or else its rank, where smaller is better."""
    rank = float("nan") if response.rank is None else -float(response.rank)
    return float(response.scores.get("reward", rank))


def rough_length(record: Record, frames: int) -> int:
    """How long a record is beside others, in characters; a picture, or one of ``frames`` of a clip, counts as 2,000.

    No clip is opened for it: each is taken to have so many.
    """
    answers = [record.chosen, record.rejected, record.gold, *([each.message] for each in record.responses or ())]
    text = sum(len(text_of(messages)) for messages in (record.prompt, record.rejected_prompt, *answers) if messages)
    clips = len(record.videos) + len(record.rejected_videos)
    return text + 2_000 * (len(record.images) + len(record.rejected_images) + frames * clips)


def open_media(names: Sequence[str], field: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """What ``read`` makes of each name; errors name the field."""
    opened = []
    for name in names:
        try:
            opened.append(read(name))
        except InputError as error:
            error.field = field
            raise
    return tuple(opened)


class RecordDataset(Dataset):
    """Encoded records by position in their file, as a data loader asks for them.

    An item is asked for as (index, counted); see `EncodedRecord.counted`. A record that cannot be used comes back as
    its InputError, not raised: a data worker would make a stack trace of it.

    Args:
        records: the file.
        encoder: of its records.
        precomputed: what the reference said of them, if that is known.
    """

    def __init__(self, records: RecordFile, encoder: Encoder, precomputed: PrecomputedReference | None = None) -> None:
        self.records = records
        self.encoder = encoder
        self.precomputed = precomputed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[int, bool]) -> EncodedRecord | InputError:
        index, counted = item
        try:
            record = self.records[index]
            encoded = self.encoder(record, self.records.media_root, counted=counted)
            return encoded if self.precomputed is None else self.precomputed.attach(index, record, encoded)
        except InputError as error:
            line = self.records.line_of(index)
            return InputError(error.problem, file=self.records.path, line=line, field=error.field)
