"""Where two texts differ: character spans of the words that only one of them has.

Words are what white space separates. Han, kana, Thai, Lao, Khmer and Burmese, which are written without spaces, are
taken character by character, each with the marks and stops behind it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from mmalign.records import Spans

_UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF),  # Thai, Lao; Burmese; Khmer
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D),  # kana
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),  # han
)  # fmt: skip
_OPENING = "([{\"'“‘„«‹「『（［【〈《¿¡*_`~"
_CLOSING = ")]}\"'”’»›」』）］】〉》*_`~.,;:!?…。、，．；：！？"
_STANDING_ALONE = "-‐–—―•·#|"  # dashes, bullets, headings, bars of tables


def _marks() -> Iterator[str]:
    """Characters that combine with one before them: those of the blocks above, and the variation selectors."""
    for first, last in (*_UNSPACED_BLOCKS[:-1], (0x3099, 0x309A), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF)):
        yield from (char for char in map(chr, range(first, last + 1)) if unicodedata.category(char)[0] == "M")


_UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED_BLOCKS)
_WORD = re.compile(
    f"[{re.escape(_OPENING)}]*[{_UNSPACED}][{''.join(_marks())}]*[{re.escape(_CLOSING)}]*|[^\\s{_UNSPACED}]+"
)


@dataclass(frozen=True)
class Comparison:
    """Two texts, word by word; see `compare`.

    Attributes:
        words: where the words of each text stand, in characters.
        changes: ``(start, stop, start, stop)``, in words of the first and of the second text: stretches that differ,
            in order, with equal words between them. One of the two may be empty.
    """

    words: tuple[Spans, Spans]
    changes: tuple[tuple[int, int, int, int], ...]

    @property
    def share(self) -> float:
        """Words that differ, of all words of both texts: 0 where all are equal, 1 where none is."""
        changed = sum(a_stop - a_start + b_stop - b_start for a_start, a_stop, b_start, b_stop in self.changes)
        return changed / max(1, sum(map(len, self.words)))

    def spans(self, *, join: int = 0, both: bool = False) -> tuple[Spans, Spans]:
        """Character spans of what differs, in each text; neighbouring words are one span.

        Args:
            join: changes with fewer than this many equal words between them are one, equal words included.
            both: where only one text says something, mark in the other the word that comes there instead; at the end,
                the last one. Otherwise nothing is marked there.
        """
        marked: tuple[set[int], set[int]] = (set(), set())
        for places in self._joined(join):
            for own, words, (start, stop) in zip(marked, self.words, (places[:2], places[2:]), strict=True):
                if start == stop and both and words:
                    start = min(start, len(words) - 1)
                    stop = start + 1
                own.update(range(start, stop))
        first, second = (tuple(_runs(own, words)) for own, words in zip(marked, self.words, strict=True))
        return first, second

    def _joined(self, join: int) -> list[tuple[int, int, int, int]]:
        joined: list[tuple[int, int, int, int]] = []
        for change in self.changes:
            if joined and change[0] - joined[-1][1] < join:
                change = (joined[-1][0], change[1], joined[-1][2], change[3])
                joined.pop()
            joined.append(change)
        return joined


def compare(first: str, second: str, *, exact: bool = False) -> Comparison:
    """The words of two texts, and the stretches in which they differ.

    Args:
        exact: take words as they are written. Otherwise case is no difference, nor is the punctuation around a word
            (``dog.`` is ``Dog``; but ``3.5`` is not ``35``), and what is all punctuation is no word.
    """
    key = str if exact else _bare
    words = [tuple(match.span() for match in _WORD.finditer(text) if key(match[0])) for text in (first, second)]
    keys = [[key(text[start:end]) for start, end in own] for text, own in zip((first, second), words, strict=True)]
    opcodes = SequenceMatcher(None, *keys, autojunk=False).get_opcodes()
    return Comparison((words[0], words[1]), tuple(tuple(places) for kind, *places in opcodes if kind != "equal"))


def differences(first: str, second: str) -> tuple[Spans, Spans]:
    """Spans of the words in which two texts differ, in each of them; what only one of them says is marked there.

    Words are taken as they are written; see `compare` for more.
    """
    return compare(first, second, exact=True).spans()


def _bare(word: str) -> str:
    """A word in composed form, case-folded, without punctuation around it; empty if it is nothing else."""
    folded = unicodedata.normalize("NFC", word).casefold().replace("’", "'")
    return folded.lstrip(_OPENING).rstrip(_CLOSING) if folded.strip(_STANDING_ALONE) else ""


def _runs(marked: set[int], words: Spans) -> Iterator[tuple[int, int]]:
    """Characters from the first to the last word of every run of marked words."""
    for number in sorted(marked):
        if number - 1 not in marked:
            start = words[number][0]
        if number + 1 not in marked:
            yield start, words[number][1]
