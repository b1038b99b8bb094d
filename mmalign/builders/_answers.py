"""Sources with their pictures open and their good answer known: the source's own, or one that the model writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mmalign.backbones import Job
from mmalign.builders import Drop, Unit
from mmalign.endpoint import Writer
from mmalign.records import Record, assistant_message, text_of


@dataclass(frozen=True)
class Answered:
    """A source with its pictures open; ``text`` is its good answer."""

    record: Record
    images: tuple[Image.Image, ...]
    text: str

    def made(self, variant: str, meta: dict[str, Any], **fields: Any) -> Record:
        """The record ``SOURCE#VARIANT``: what is kept of the source, its good answer, and ``fields``.

        What belongs to the prompt is kept (media, gold, difficulty, group, weight). What a source says of a rejected
        side of its own, media included, is left behind; its ``meta`` becomes ``source``.
        """
        record = self.record
        meta = {**meta, "chosen_by": "source" if record.chosen else "model"}
        return Record(
            f"{record.id}#{variant}",
            record.prompt,
            record.chosen or [assistant_message(self.text)],
            images=record.images,
            gold=record.gold,
            difficulty=record.difficulty,
            group=record.group,
            weight=record.weight,
            meta={**meta, **({"source": record.meta} if record.meta else {})},
            **fields,
        )


def read(
    unit: Unit, model: Writer | None, records: Sequence[Record], *, write_chosen: bool, max_new_tokens: int
) -> Iterator[Answered | tuple[str, Drop]]:
    """Every one of ``records`` with its pictures and its answer, or its id and the reason why it has none.

    Answers that are missing are written in one batch, greedily.

    Args:
        write_chosen: let the model write them; else, or where there is no model, such sources are dropped.
        max_new_tokens: limit of one.
    """
    opened: list[tuple[Record, tuple[Image.Image, ...]]] = []
    for record in records:
        images = _open(unit, record, write_chosen and model is not None)
        if isinstance(images, Drop):
            yield record.id, images
        else:
            opened.append((record, images))
    jobs = [Job(record.prompt, images, key=record.id) for record, images in opened if record.chosen is None]
    written = iter(unit.write(model, jobs, max_new_tokens=max_new_tokens) if jobs else ())
    for record, images in opened:
        text = text_of(record.chosen) if record.chosen else next(written).strip()
        if text.strip():
            yield Answered(record, images, text)
        else:
            yield record.id, Drop("empty_answer" if record.chosen else "model_wrote_nothing")


def _open(unit: Unit, record: Record, write_chosen: bool) -> tuple[Image.Image, ...] | Drop:
    if record.videos:
        return Drop("video", "give the frames of a video as images")
    if not record.images:
        return Drop("no_image")
    if record.chosen is None and not write_chosen:
        return Drop("no_answer")
    return unit.images(record)
