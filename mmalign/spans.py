"""Where two texts differ: character spans of the words that only one of them has."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from mmalign.records import Spans


def differences(first: str, second: str) -> tuple[Spans, Spans]:
    """Spans of the words in which two texts differ, in each of them; what only one of them says is marked there.

    Words are what white space separates. Neighbouring words that differ are one span.
    """
    words = [list(_words(text)) for text in (first, second)]
    texts = [[text[start:end] for start, end in own] for text, own in zip((first, second), words, strict=True)]
    found: tuple[list, list] = ([], [])
    for kind, *places in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for side, (start, end) in enumerate((places[:2], places[2:])):
            if start < end:
                found[side].append((words[side][start][0], words[side][end - 1][1]))
    return tuple(found[0]), tuple(found[1])


def _words(text: str) -> Iterator[tuple[int, int]]:
    end = 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        yield start, end
