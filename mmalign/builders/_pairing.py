"""From responses with a score each to pairs of a better and a worse one, and to their records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmalign.records import Record, Response, text_of

BEST_WORST, ALL = "best_worst", "all"
PAIRINGS = (BEST_WORST, ALL)
"""Which pairs of a list of responses are taken; see `pairs_of`."""


@dataclass(frozen=True)
class Pair:
    """Two responses by their place in a list; ``gap``: score of chosen minus score of rejected, above 0."""

    chosen: int
    rejected: int
    gap: float


def pairs_of(
    responses: Sequence[Response], scores: Sequence[float], pairing: str = BEST_WORST, *, min_gap: float = 0.0
) -> list[Pair]:
    """Pairs of responses that say different things and differ in their scores, the largest gap first.

    Which pairs there are does not depend on the order of the responses: equal gaps are ordered by the texts. Of one
    text with several scores, each stands for itself.

    Args:
        responses: a ranked list.
        scores: of each, larger is better (of ranks, give their negatives); one that is NaN is in no pair.
        pairing: ``best_worst``, the pair with the largest gap alone; or ``all``.
        min_gap: pairs with a smaller one are left out.

    Returns:
        No pair where there is none of that kind.
    """
    texts = [text_of([response.message]) for response in responses]
    known = [i for i, score in enumerate(scores) if not math.isnan(score)]
    found = [
        Pair(better, worse, float(scores[better]) - float(scores[worse]))
        for better in known
        for worse in known
        if scores[better] > scores[worse] and texts[better].strip() != texts[worse].strip()
    ]
    found = [pair for pair in found if pair.gap >= min_gap]
    found.sort(key=lambda pair: (-pair.gap, texts[pair.chosen], texts[pair.rejected]))
    return found[:1] if pairing == BEST_WORST else found


def pair_record(source: Record, variant: str, chosen: Response, rejected: Response, **fields: Any) -> Record:
    """The record ``SOURCE#variant`` of two responses to a source's prompt.

    What belongs to the prompt comes from the source: media, the visual negative (other media for that prompt), gold,
    difficulty, group, weight, and its meta as ``source``. What belongs to a response comes from the response: scores,
    spans, critique. What the source says of a chosen and a rejected answer of its own is left behind.

    Args:
        fields: of the record, over those above; to ``meta``, the source's is added.
    """
    taken: dict[str, Any] = {}
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        taken |= {
            side: [response.message],
            f"{side}_scores": dict(response.scores),
            f"{side}_spans": response.spans,
            f"{side}_critique": response.critique,
        }
    meta = {**fields.pop("meta", {}), **({"source": source.meta} if source.meta else {})}
    return Record(
        f"{source.id}#{variant}",
        source.prompt,
        images=source.images,
        videos=source.videos,
        rejected_images=source.rejected_images,
        rejected_videos=source.rejected_videos,
        gold=source.gold,
        difficulty=source.difficulty,
        group=source.group,
        weight=source.weight,
        meta=meta,
        **{**taken, **fields},
    )
