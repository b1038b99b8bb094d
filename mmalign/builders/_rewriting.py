"""An answer taken apart at its sentences, each cut at a word, and put together again around new endings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.builders import _sentences
from mmalign.builders._similarity import words_of

_SWAPS = {"yes": "no", "no": "yes"}
_YES_NO = re.compile(
    r"""^ (?P<before> [\s*_"'“]*) (?P<word> yes|no) (?P<after> [*_"'”]*)
    (?= \s*$ | \s*[.,;:!?—–] | \s+-\s            # an answer of its own: "No cats" and "No-one" are none
      | \s+(?:there|it|this|that|these|those|he|she|they|we|i|you|the)\b )""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Part:
    """One sentence of an answer, cut.

    Attributes:
        start, stop: where the sentence stands in the answer, in characters.
        beginning: what is kept of it; empty where all of it is to be written anew.
        open: whether its rest is to be written.
    """

    start: int
    stop: int
    beginning: str
    open: bool = True

    def prefix(self, answer: str) -> str:
        """What the model continues: the true text before the sentence, and its beginning."""
        return (answer[: self.start] + self.beginning).strip()


def swap_yes_no(sentence: str) -> str:
    """``sentence`` with the Yes or No that it answers with turned round, in the same case; else as it is."""

    def turn(match: re.Match[str]) -> str:
        word = match["word"]
        other = _SWAPS[word.lower()]
        other = other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
        return match["before"] + other + match["after"]

    return _YES_NO.sub(turn, sentence)


def cut(sentence: str, start: int, swap: bool, where: float) -> Part:
    """The part for a sentence that begins at ``start`` of an answer.

    Args:
        sentence: without white space around it.
        start: in characters.
        swap: whether a Yes or No at its beginning is turned round. Where it says nothing else, that is all.
        where: in [0, 1): which of the word ends but the last is the cut. A single word is written anew.
    """
    stop = start + len(sentence)
    turned = swap_yes_no(sentence) if swap else sentence
    if turned != sentence and len(words_of(turned)) == 1:
        return Part(start, stop, turned, open=False)
    ends = [match.end() for match in re.finditer(r"\S+", turned)]
    beginning = turned[: ends[int(where * (len(ends) - 1))]] if len(ends) > 1 else ""
    return Part(start, stop, beginning)


def join(answer: str, part: Part, rest: str) -> str:
    """The sentence that ``part`` and what was written after it make; what follows its first end is left out.

    White space between the two becomes one space; where none was written (a comma, the s of a plural), there
    is none. A rest without a word leaves the beginning alone, and so does one that a limit cut off: that ends neither
    in a stop, where the true sentence does, nor with its line.
    """
    if not part.open or not rest.strip():
        return part.beginning
    space = " " if part.beginning and rest[0].isspace() else ""
    sentence = part.beginning + space + rest.strip()
    before = answer[: part.start]
    end = _sentences.first_end(before + sentence, len(before) + len(part.beginning))
    line_ends = "\n" in rest[len(rest.rstrip()) :]
    if end is None and not line_ends and _sentences.stopped(answer[part.start : part.stop]):
        return sentence if _sentences.stopped(sentence) else part.beginning
    return (before + sentence)[len(before) : end]


def lacks_ending(parts: Sequence[Part], sentences: Sequence[str]) -> bool:
    """Whether one of the beginnings was left alone; see `join`."""
    pairs = zip(parts, sentences, strict=True)
    return any(part.open and sentence == part.beginning for part, sentence in pairs)


def rebuild(answer: str, parts: Sequence[Part], sentences: Sequence[str]) -> str:
    """``answer`` with its sentences replaced, and the white space between them as it was."""
    pieces, end = [], 0
    for part, sentence in zip(parts, sentences, strict=True):
        pieces += [answer[end : part.start], sentence]
        end = part.stop
    return "".join([*pieces, answer[end:]])
