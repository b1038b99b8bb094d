"""Where sentences end, in a finished text and in one that is still being written.

A sentence ends at ``.``, ``!`` or ``?`` with white space after it, or at a line break; not in ``3.5``, after
``Dr.``, in ``U.S. Army``, in ``No. 5``, nor after the number of a list item. Nothing is ever rewritten: spans
of the text are given, so that white space and markdown stay what they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Span = tuple[int, int]

# What always has something after it, and what ends a sentence only where no lower-case letter follows.
_NEVER_LAST = frozenset((
    "dr", "mr", "mrs", "ms", "mx", "prof", "st", "mt", "gen", "col", "lt", "sgt", "capt", "cmdr", "rev", "hon",
    "gov", "sen", "rep", "vs", "cf", "eg", "ie", "e.g", "i.e", "fig", "eq", "vol", "ca", "approx", "dept",
))  # fmt: skip
_SELDOM_LAST = frozenset((
    "etc", "inc", "ltd", "co", "corp", "jr", "sr", "al", "a.m", "p.m", "ave", "blvd", "ft", "in", "oz", "lb",
))  # fmt: skip

_BREAK = re.compile(
    r"""(?:
        (?P<stop>[.!?…]+) ["'”’)\]*_]* (?=\s)     # a stop, closing quotes or emphasis, white space
      | [。！？]+ [”’」』）]*                       # the stops of scripts that write no space after them
      | (?=\s*\n)                                  # the end of a line
    )
    (?P<gap>\s*) (?=\S)""",
    re.VERBOSE,
)
_STOP = re.compile(r"""(?:[.!?…]+["'”’)\]*_]*|[。！？]+[”’」』）]*)$""")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]|[A-HJ-Z]")  # U.S, or the J of J. Smith; I is a word
_LINE_DECORATION = " \t*_#>([-•"


def split(text: str) -> list[Span]:
    """The sentences of ``text`` as spans [start, end), in characters, without the white space around them."""
    spans, start = [], len(text) - len(text.lstrip())
    for end, following in _breaks(text, start):
        spans.append((start, end))
        start = following
    end = len(text.rstrip())
    return [*spans, (start, end)] if start < end else spans


def first_end(text: str, start: int = 0) -> int | None:
    """Where the first sentence end after ``start`` is, or None; the text before helps to tell.

    An end shows only when something follows it, since ``3.`` may become ``3.5``.
    """
    return next((end for end, _ in _breaks(text, start) if text[start:end].strip()), None)


def ended(written: str) -> bool:
    """Whether a sentence has ended in a text that is still being written: what generation is asked to stop at."""
    return first_end(written) is not None


def stopped(sentence: str) -> bool:
    """Whether ``sentence``, with nothing behind it, ends in a stop."""
    return _STOP.search(sentence) is not None


def _breaks(text: str, start: int) -> Iterator[Span]:
    """(end of a sentence, start of the next one) for every boundary after ``start``."""
    for match in _BREAK.finditer(text, start):
        following = text[match.end()]
        if match["stop"] and "\n" not in match["gap"]:
            if match["stop"] == "." and _is_abbreviation(text, match.start("stop"), following):
                continue
            if match["stop"] in ("..", "...", "…") and following.islower():
                continue
        yield match.start("gap"), match.end()


def _is_abbreviation(text: str, dot: int, following: str) -> bool:
    """Whether the full stop at ``dot`` belongs to the word before it; ``following`` is the next character."""
    line = text[text.rfind("\n", 0, dot) + 1 : dot]
    if line.strip(_LINE_DECORATION).isdigit():
        return True  # the number of a list item
    word = line.rsplit(None, 1)[-1].lstrip("\"'“‘([*_") if line.strip() else ""
    lower = word.lower()
    if lower in ("no", "nos"):
        return following.isdigit()
    if lower in _SELDOM_LAST:
        return following.islower()
    return lower in _NEVER_LAST or _INITIALS.fullmatch(word) is not None


def unquoted(text: str) -> str:
    """Less the pair of quotation marks around all of it, if there is one."""
    closing = {'"': '"', "“": "”", "'": "'"}.get(text[:1])
    if closing is None or len(text) < 2 or not text.endswith(closing):
        return text
    if closing != "'" and closing in text[1:-1]:  # two pairs; an apostrophe is none
        return text
    return text[1:-1].strip()
