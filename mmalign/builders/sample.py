"""Samples: several responses of the model itself to each prompt, for whoever scores them next.

The first step of every method that learns from a model's own responses. Nothing is said of which is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mmalign.builders import WRITER, Drop, Unit
from mmalign.builders._sampling import Candidates, Sampling
from mmalign.endpoint import Writer
from mmalign.records import Record


@dataclass(frozen=True)
class Sample(Sampling):
    """K responses that the model gives to each source's prompt, sampled; equal ones are one response.

    A source with fewer than two different ones is dropped.
    """

    wants: ClassVar[str] = WRITER

    def __call__(self, unit: Unit, model: Writer) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#sample``. All samples of a unit are written together."""
        for source, candidates in self.candidates(unit, model, use_given=False):
            yield source, candidates if isinstance(candidates, Drop) else [_record(candidates)]

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        return f"{len(record.responses or ())} different responses"


def _record(candidates: Candidates) -> Record:
    source = candidates.source
    return Record(
        f"{source.id}#sample",
        source.prompt,
        responses=candidates.responses,
        images=source.images,
        videos=source.videos,
        rejected_images=source.rejected_images,
        rejected_videos=source.rejected_videos,
        gold=source.gold,
        difficulty=source.difficulty,
        group=source.group,
        weight=source.weight,
        meta={**candidates.meta, **({"source": source.meta} if source.meta else {})},
    )
