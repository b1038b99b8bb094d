r"""RRPO: pairs about clips whose differing phrases are tagged, or to be found.

Sarkar and Etemad, "Self-alignment of Large Video Language Models with Refined Regularized Preference Optimization"
(arXiv 2504.12083). The list for LLaVA-Video and LongVU has each answer twice, plain and tagged::

    {"sample_id": 7, "question": "<image>\nWhat ...?", "src": "...", "media_path": "a/b.mp4", "video": "b.mp4",
     "answer": "A correct answer.", "answer_masked": "A <MASK> correct </MASK> answer.",
     "pred": "A wrong answer.", "pred_masked": "A <MASK> wrong </MASK> answer."}

``<image>`` stands for the clip, whose path is ``media_path``, or else ``video``. Tagged phrases become character spans
of the plain answer. The tags bring white space with them, so the two texts are compared, and mapped, by all characters
but white space; if they differ in more, the row is dropped. So is a row without a tagged phrase in either answer; one
with phrases in one answer alone is kept, where the released code drops it without a word.

The list for VideoChat2 has no tags, and several questions a row, each of which becomes a record::

    {"sample_id": 7, "video": "b.mp4", "QA": [{"i": "...", "q": "...", "a": "..."}], "QA_NEG": [...]}

Its spans are the words in which the answers differ (`mmalign.spans.differences`); the released code marks nothing where
words were only added. The instruction ``i`` is put above the question.

``start`` and ``end``, in seconds, say which part of the clip a row of either list is about; the clip is then named with
it, ``b.mp4#t=12,20.5``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmalign import spans
from mmalign.interop import _tables
from mmalign.interop._media import Media
from mmalign.interop._turns import IMAGE, VIDEO, mapping, message, pair, question
from mmalign.interop.formats import Unfit
from mmalign.records import PART_OF_CLIP, Spans

READS = frozenset(
    {
        *("sample_id", "src", "media_path", "video", "start", "end", "question"),
        *("answer", "answer_masked", "pred", "pred_masked", "QA", "QA_NEG"),
    }
)

LONGEST = 1e9
"""Seconds that no clip has."""

_TAG = re.compile(r"<(/?)MASK>")


def rows(source: Path) -> Iterator[tuple[str, Any]]:
    """The rows of the list; of a row with several questions, one for each, at ``PLACE.QUESTION``."""
    for place, row in _tables.rows(source):
        asked = row.get("QA") if isinstance(row, Mapping) else None
        if not isinstance(asked, list) or not asked:
            yield place, row
            continue
        wrong = row["QA_NEG"] if isinstance(row.get("QA_NEG"), list) else []
        for number, qa in enumerate(asked):
            qa = {} if qa is None else qa  # a question that is missing, in a row that has questions
            yield f"{place}.{number + 1}", {**row, "QA": qa, "QA_NEG": wrong[number] if number < len(wrong) else None}


def record(row: Any, media: Media) -> dict[str, Any]:
    """The pair of a row with its spans."""
    row = mapping(row)
    in_qa = row.get("QA") not in (None, [])  # tables have every column in every row
    prompt, chosen, rejected = _from_qa(row) if in_qa else _from_texts(row)
    sides = pair([message("user", prompt)], chosen, rejected)
    if row.get("answer_masked") is None and row.get("pred_masked") is None:
        marked = spans.differences(chosen, rejected)
    else:
        marked = tagged(chosen, row.get("answer_masked")), tagged(rejected, row.get("pred_masked"))
    if not any(marked):
        raise Unfit("no_span", "no word differs" if in_qa else "no phrase is tagged")
    path = row.get("media_path") or row.get("video")
    return {
        "id": row.get("sample_id"),
        **sides,
        "videos": [_part_of(media.video(path), part(row.get("start"), row.get("end")))],
        "chosen_spans": marked[0],
        "rejected_spans": marked[1],
        "meta": {"src": row["src"]} if row.get("src") else {},
    }


def _from_texts(row: Mapping[str, Any]) -> tuple[str, Any, Any]:
    return question(row.get("question")).replace(IMAGE, VIDEO), row.get("answer"), row.get("pred")


def _from_qa(row: Mapping[str, Any]) -> tuple[str, Any, Any]:
    good, bad = mapping(row["QA"]), row.get("QA_NEG")
    if not isinstance(bad, Mapping) or bad.get("q") != good.get("q"):
        raise Unfit("no_answer", "QA_NEG has no answer to the same question", field="QA_NEG")
    prompt = "\n".join(text for text in (good.get("i"), question(good.get("q"))) if text)
    return prompt.replace(IMAGE, VIDEO), good.get("a"), bad.get("a")


def _part_of(name: str, cut: str) -> str:
    if cut and PART_OF_CLIP.search(name):
        raise Unfit("part_of_clip", f"says a part already, beside start and end: {name}", field="start")
    return name + cut


def part(start: Any, end: Any) -> str:
    """What a clip's name says of the part from second ``start`` to second ``end``; either may be None.

    Raises:
        Unfit: they are no seconds, or end before they begin (``part_of_clip``).
    """
    if start is None and end is None:
        return ""
    first, last = (_seconds(each, default) for each, default in ((start, 0.0), (end, LONGEST)))
    if not 0 <= first < last <= LONGEST:
        raise Unfit(
            "part_of_clip", f"expected seconds, the end after the start, got {start!r} and {end!r}", field="start"
        )
    return f"#t={_decimal(first)}" + ("" if end is None else f",{_decimal(last)}")


def _seconds(value: Any, default: float) -> float:
    """To a microsecond; not a number where it is none."""
    if value is None:
        return default
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LONGEST
    return round(value, 6) if known else math.nan


def _decimal(seconds: float) -> str:
    """Without an exponent."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def tagged(plain: str, masked: Any) -> Spans:
    """Character spans of ``plain`` that ``masked``, the same text with tags in it, puts between tags.

    Raises:
        Unfit: the texts differ in more than white space (``mismatch``), or a tag has no partner (``tags``).
    """
    if not isinstance(masked, str):
        raise Unfit("tags", "one answer has a tagged text, the other has none")
    places = [i for i, character in enumerate(plain) if not character.isspace()]
    seen, start, found = "", None, []
    pieces = _TAG.split(masked)  # text, "" or "/" of a tag, text, ...
    for text, closing in zip(pieces[::2], [*pieces[1::2], None], strict=True):
        seen += "".join(text.split())
        if closing is None:
            break
        if (closing == "/") != (start is not None):
            raise Unfit("tags", f"<{closing}MASK> without its partner")
        if closing and start < len(seen):
            found.append((start, len(seen)))
        start = None if closing else len(seen)
    if start is not None:
        raise Unfit("tags", "<MASK> without its partner")
    if seen != "".join(plain.split()):
        raise Unfit("mismatch", f"the tagged text is not the plain one with tags: {plain[:60]!r}")
    return tuple((places[start], places[end - 1] + 1) for start, end in found)
