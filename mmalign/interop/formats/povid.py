r"""POVID: conversations about a COCO picture, and the same with hallucinations put in.

Zhou et al., "Aligning Modalities in Vision Large Language Models via Preference Fine-tuning" (arXiv 2402.11411).
The layout is recalled, and was not checked against the release::

    {"id": "000000033471", "image": "000000033471.jpg",
     "conversations": [{"from": "human", "value": "<image>\nWhat ...?"}, {"from": "gpt", "value": "..."}],
     "rejected_conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}

``conversations`` is the preferred side. Each answer in which the sides differ makes a record, whose prompt is the
preferred conversation up to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmalign.interop import _tables
from mmalign.interop._media import Media
from mmalign.interop._turns import mapping, message, pair, turns
from mmalign.interop.formats import Unfit

READS = frozenset({"id", "image", "conversations", "rejected_conversations"})


def rows(source: Path) -> Iterator[tuple[str, tuple[int, Any]]]:
    """Each row with the turn that differs, or else the last; several times, at ``PLACE.TURN``, if several differ."""
    for place, row in _tables.rows(source):
        differing = _differing(row)
        for number in differing:
            yield (f"{place}.{number + 1}" if len(differing) > 1 else place), (number, row)
        if not differing:
            yield place, (-1, row)


def record(row: tuple[int, Any], media: Media) -> dict[str, Any]:
    """The pair of one answer of a row."""
    number, row = row[0], mapping(row[1])
    good, bad = turns(row.get("conversations")), turns(row.get("rejected_conversations"))
    if [role for role, _ in good] != [role for role, _ in bad]:
        raise Unfit("turns", "the conversations have different turns")
    if any(one != other for one, other in zip(good, bad, strict=True) if one[0] != "assistant"):
        raise Unfit("prompts_differ", "the conversations have different questions")
    if good[number][0] != "assistant":
        raise Unfit("turns", "the conversation does not end with an answer")
    prompt = [message(*turn) for turn in good[:number]]
    return {
        "id": row.get("id"),
        **pair(prompt, good[number][1], bad[number][1]),
        "images": [media.picture(row.get("image"))],
    }


def _differing(row: Any) -> list[int]:
    """The turns in which the sides of a row differ; `record` says what else is wrong with them."""
    sides = [row.get(name) for name in ("conversations", "rejected_conversations")] if isinstance(row, Mapping) else []
    if not sides or not all(isinstance(side, list) for side in sides):
        return []
    both = zip(*sides, strict=False)
    return [i for i, (one, other) in enumerate(both) if one != other and _speaker(one) in ("gpt", "assistant")]


def _speaker(turn: Any) -> Any:
    return turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
