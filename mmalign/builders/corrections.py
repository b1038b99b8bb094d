"""Corrections: what a corrected answer changed is marked, for training on that alone.

Pairs whose chosen answer is the rejected one with its mistakes put right, such as those of Yu et al., "RLHF-V: Towards
Trustworthy MLLMs via Behavior Alignment from Fine-grained Correctional Human Feedback" (arXiv 2312.00849). They get
the character spans in which the two texts differ, for objectives that look at spans (rrpo).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from mmalign.builders import NOTHING, Drop, Unit
from mmalign.plugins import option
from mmalign.records import InputError, Record, text_of
from mmalign.spans import Comparison, compare

WORD, SEGMENT = "word", "segment"


@dataclass(frozen=True)
class Corrections:
    """Spans of what differs between a chosen answer and the rejected one that it corrects.

    What only one side says is marked there. Pairs that differ too little or too much are no corrections.
    """

    granularity: str = option(WORD, "word: each stretch of changed words; segment: near ones joined.")
    join_below: int = option(3, "Of segment: changes with fewer equal words than this between them are joined.")
    min_share: float = option(0.0, "Share of changed words, of both texts, below which a pair is dropped.")
    max_share: float = option(0.5, "Share above which it is dropped; 1 drops none.")
    both_sides: bool = option(False, "Where only one side says something, mark the other's next word too.")
    exact: bool = option(False, "Let case and the punctuation around words count as changes.")

    wants: ClassVar[str] = NOTHING

    def __post_init__(self) -> None:
        if self.granularity not in (WORD, SEGMENT):
            raise InputError(f"must be {WORD} or {SEGMENT}, got {self.granularity}", field="granularity")
        if self.join_below < 1:
            raise InputError(f"must be 1 or more, got {self.join_below}", field="join_below")
        for name in ("min_share", "max_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"must be from 0 to 1, got {getattr(self, name)}", field=name)
        if self.min_share > self.max_share:
            raise InputError(f"must be at most max_share {self.max_share}, got {self.min_share}", field="min_share")

    def __call__(self, unit: Unit, model: None) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#marked``: the source with spans."""
        for record in unit.items:
            yield record.id, self._of(record)

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        if record.meta["spans_by"] == "source":
            return "spans of the source"
        sides = [side for side in ("chosen", "rejected") if getattr(record, f"{side}_spans")]
        return f"marked: {' and '.join(sides)}"

    def _of(self, record: Record) -> list[Record] | Drop:
        if record.chosen is None or record.rejected is None:
            return Drop("no_pair")
        compared = compare(text_of(record.chosen), text_of(record.rejected), exact=self.exact)
        meta = {"changed": round(compared.share, 6), "spans_by": "differences"}
        spans = {}
        if record.chosen_spans is not None or record.rejected_spans is not None:  # of someone who knew better
            meta["spans_by"] = "source"
        elif reason := self._no_correction(compared):
            return Drop(reason, f"{compared.share:.0%} of the words changed")
        else:
            join = self.join_below if self.granularity == SEGMENT else 0
            chosen, rejected = compared.spans(join=join, both=self.both_sides)
            spans = {"chosen_spans": chosen, "rejected_spans": rejected}
        if record.meta:
            meta["source"] = record.meta
        return [replace(record, id=f"{record.id}#marked", meta=meta, **spans)]

    def _no_correction(self, compared: Comparison) -> str | None:
        if not compared.changes:
            return "same_words"
        if compared.share < self.min_share:
            return "too_little_changed"
        return "too_much_changed" if compared.share > self.max_share else None
