"""Masks in an answer, by a model that was asked for them or by a rule that needs none; and what was filled in.

A masked answer is the answer with ``[MASK]`` for every segment that is to be written anew::

    A red circle is at the top.     ->     A [MASK] is at the [MASK].
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from mmalign import runs
from mmalign.builders import _sentences
from mmalign.builders._similarity import words_of
from mmalign.records import Spans

MASK = "[MASK]"

_MASK = re.compile(r"\[\s*mask\s*\]", re.IGNORECASE)
_WORD = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:[-'’][^\W_]+)*")
_TOKEN = re.compile(rf"{_MASK.pattern}|{_WORD.pattern}", re.IGNORECASE)

# What is said with, not of: articles, pronouns, prepositions, conjunctions, auxiliaries. A yes, a no, a not and a
# number are statements, and so are none of them.
_FUNCTION_WORDS = frozenset((
    "a", "an", "the", "this", "that", "these", "those", "there", "here", "it", "its", "itself", "he", "him", "his",
    "himself", "she", "her", "hers", "herself", "they", "them", "their", "theirs", "themselves", "we", "us", "our",
    "you", "your", "i", "me", "my", "who", "whom", "whose", "which", "what", "where", "when", "why", "how",
    "of", "in", "on", "at", "by", "to", "from", "with", "for", "as", "into", "onto", "upon", "about", "through",
    "and", "or", "but", "nor", "so", "yet", "if", "then", "than", "while", "because", "although", "though", "since",
    "is", "are", "was", "were", "be", "been", "being", "am", "has", "have", "had", "having", "do", "does", "did",
    "can", "could", "may", "might", "must", "shall", "should", "will", "would", "also", "too", "very", "just", "such",
    "it's", "that's", "there's", "here's", "he's", "she's", "they're", "we're", "you're", "i'm",
    "image", "picture", "photo", "photograph", "scene", "shows", "depicts",
))  # fmt: skip

_PREAMBLE = re.compile(
    r"""\W* (?: (?:sure|certainly|absolutely|okay|ok|of\ course|got\ it) \s* [,.!:]
      | here(?:'s|’s|\ is|\ are) \b
      | (?:(?:the|your|my)\ )? (?:completed?|filled(?:-in)?|final|full)\ (?:\w+\ )?
        (?:sentence|text|description|version) \b
      | (?:i'm|i’m|i\ am)\ (?:sorry|unable|not\ able) \b | sorry \b | as\ an\ ai \b | i\ (?:can't|can’t|cannot) \b )""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class Masked:
    """An answer whose segments are hidden.

    Attributes:
        text: the answer with masks.
        spans: what they hide, in characters of the answer.
        ratio: share of the answer's words that are hidden.
        by: ``rule`` or ``model``.
        asked: how often a model was asked; more than 0 with a rule means that it could not do it.
    """

    text: str
    spans: Spans
    ratio: float
    by: str
    asked: int = 0


def by_rule(answer: str, level: str, rate: float, seed: int, asked: int = 0) -> Masked | None:
    """Hide at least ``rate`` of the content words of ``answer``, in whole segments that are drawn by ``seed``.

    Content words are those that are in no short list of English function words. A segment is a run of them with
    nothing but white space in between, or, with ``level`` ``sentence``, a sentence that has any.

    Returns:
        None for an answer without a content word.
    """
    segments = list(_sentence_segments(answer) if level == "sentence" else _segments(answer))
    if not segments:
        return None
    draws = runs.uniform(np.uint64(seed) + np.arange(len(segments), dtype=np.uint64), 0)
    wanted = rate * sum(count for _, count in segments)
    hidden, spans = 0, []
    for number in np.argsort(draws, kind="stable"):
        if hidden < wanted or not spans:
            span, count = segments[number]
            spans.append(span)
            hidden += count
    spans = tuple(sorted(spans))
    return Masked(_render(answer, spans), spans, _ratio(answer, spans), "rule", asked)


def by_model(written: str, answer: str, asked: int) -> Masked | None:
    """What a model gave for ``answer`` with masks, or None where it did anything else with it than hide words.

    It must hold a mask, and its other words must be words of the answer, in their order, and not all of them.
    """
    text = _MASK.sub(MASK, written.strip())
    tokens = [MASK if token == MASK else token.casefold() for token in _TOKEN.findall(text)]
    words = [(match.start(), match.end()) for match in _WORD.finditer(answer)]
    names = [answer[start:end].casefold() for start, end in words]
    kept = [token for token in tokens if token != MASK]
    left = iter(names)
    if MASK not in tokens or len(kept) >= len(names) or not all(word in left for word in kept):
        return None
    changes = SequenceMatcher(None, names, tokens, autojunk=False).get_opcodes()
    spans = tuple(
        (words[start][0], words[end - 1][1]) for kind, start, end, *_ in changes if kind != "equal" and start < end
    )
    return Masked(text, spans, _ratio(answer, spans), "model", asked)


def flaw(completed: str, answer: str, shortest: float, longest: float) -> str | None:
    """Why ``completed`` is no other version of ``answer``, in one word; None if it is one.

    ``shortest`` and ``longest`` are its allowed length, in lengths of the answer, counted in words.
    """
    words, others = words_of(completed), words_of(answer)
    if not words:
        return "empty"
    if _MASK.search(completed):
        return "mask_left"
    if _PREAMBLE.match(completed) and not _PREAMBLE.match(answer):
        return "preamble"
    if not shortest * len(others) <= len(words) <= longest * len(others):
        return "length"
    return "same_words" if words == others else None


def _segments(answer: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Runs of content words: their span, and how many words they are. Lines and punctuation end a run."""
    run: list[re.Match[str]] = []
    for word in _WORD.finditer(answer):
        if run and (not _is_content(word) or answer[run[-1].end() : word.start()].strip(" \t")):
            yield (run[0].start(), run[-1].end()), len(run)
            run = []
        if _is_content(word):
            run.append(word)
    if run:
        yield (run[0].start(), run[-1].end()), len(run)


def _sentence_segments(answer: str) -> Iterator[tuple[tuple[int, int], int]]:
    """Sentences that have content words: their span, and how many."""
    for start, end in _sentences.split(answer):
        count = sum(_is_content(word) for word in _WORD.finditer(answer, start, end))
        if count:
            yield (start, end), count


def _is_content(word: re.Match[str]) -> bool:
    return word.group().casefold().replace("’", "'") not in _FUNCTION_WORDS


def _render(answer: str, spans: Spans) -> str:
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [answer[end:start], MASK]
        end = stop
    return "".join([*pieces, answer[end:]])


def _ratio(answer: str, spans: Spans) -> float:
    hidden = sum(len(_WORD.findall(answer, start, end)) for start, end in spans)
    return round(hidden / len(_WORD.findall(answer)), 6)
