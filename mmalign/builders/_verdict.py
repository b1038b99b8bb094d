"""Whether an answer is right, as far as rules can tell: choices, yes or no, numbers, short answers.

A rule reads what a text says (which option, which number) or says that it cannot: it never guesses. Where a text is
wrong, the true answer with the wrong word in its place is the same answer in everything else::

    (D) Closing the door.     (H)               ->     (H) Opening the door.
    Three.                    There are 4 dogs  ->     Four.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from mmalign.builders._rewriting import swap_yes_no
from mmalign.builders._similarity import words_of

CHOICE, YES_NO, NUMBER, SHORT, OPEN = "choice", "yes_no", "number", "short", "open"
"""Kinds of true answers."""


@dataclass(frozen=True)
class Verdict:
    """What a rule says of an answer.

    Attributes:
        right: None: it cannot tell.
        rejected: the true answer with what is wrong in its place; None where that takes more than a word.
        certain: False of a short answer that is called wrong since its words are others: it may be a paraphrase.
    """

    right: bool | None
    rejected: str | None = None
    certain: bool = True


@dataclass(frozen=True)
class Asked:
    """A question with its true answer; see `asked`.

    Attributes:
        kind: one of the above.
        truth: the true answer.
        value: what it says: a letter, yes or no, digits; empty of `SHORT` and `OPEN`.
        options: letter -> text, of a choice.
        short_words: most words of a short answer.
    """

    kind: str
    truth: str
    value: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    short_words: int = 0

    def verdict(self, answer: str) -> Verdict:
        """Whether ``answer`` says what the truth says."""
        if self.kind in (SHORT, OPEN):
            return self._compared(answer)
        said = self._read(answer)
        if said is None or self._is_twin(said):
            return Verdict(None)
        return Verdict(True) if said == self.value else Verdict(False, self._put_in(said))

    def _read(self, text: str) -> str | None:
        if self.kind == CHOICE:
            return read_choice(text, self.options)
        return read_yes_no(text) if self.kind == YES_NO else read_number(text)

    def _is_twin(self, said: str) -> bool:
        """Whether it is another option with the words of the right one."""
        return (
            said != self.value and len({normalised(self.options.get(each, each)) for each in (said, self.value)}) == 1
        )

    def _put_in(self, said: str) -> str | None:
        if self.kind == CHOICE:
            return _put_option(self.truth, self.options, self.value, said)
        if self.kind == NUMBER:
            return _NUMBER.sub(lambda match: _in_form(said, match[0]), self.truth)
        return re.sub(r"\w+", lambda match: swap_yes_no(match[0]), self.truth)

    def _compared(self, answer: str) -> Verdict:
        words, truth = normalised(answer), normalised(self.truth)
        same = words == truth if words else answer.split() == self.truth.split()
        if same:
            return Verdict(True)
        if self.kind == SHORT and _runs(words, truth):  # Left, no doubt. Left without turning. It is not left.
            return Verdict(None if _negated(answer) else True)
        if self.kind == OPEN or not words:
            return Verdict(None)
        fits = len(words) <= max(self.short_words, 2 * len(truth)) and "\n" not in answer.strip()
        return Verdict(False, _like(answer, self.truth) if fits else None, certain=False)


def asked(question: str, truth: str, short_words: int) -> Asked | None:
    """What can be told by rules of answers to a question.

    Args:
        question: with its options, on lines such as ``(A) a cat``, ``A. a cat``, ``A) a cat``, or as
            ``(A) a cat (B) a dog``.
        truth: its answer.
        short_words: a true answer of at most so many words, articles not counted, is short; 0: none is.

    Returns:
        None where there are options and the truth is none of them.
    """
    if options := options_of(question):
        letter = read_choice(truth, options)
        return None if letter is None else Asked(CHOICE, truth, letter, options)
    if words_of(truth) in (["yes"], ["no"]):
        return Asked(YES_NO, truth, words_of(truth)[0])
    words, number = normalised(truth), read_number(truth)
    if number is not None and words == (number,):
        return Asked(NUMBER, truth, number)
    short = 0 < len(words) <= short_words and "\n" not in truth.strip()
    return Asked(SHORT if short else OPEN, truth, short_words=short_words)


# ---- words ---------------------------------------------------------------------------------------------------------

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: i for i, word in enumerate(_ONES)} | {word: 10 * i for i, word in enumerate(_TENS, 2)}
_ONE_THAT_COUNTS = "".join(
    rf"(?<!\b{word}\s)" for word in ("the", "this", "that", "no", "each", "every", "any", "some", "which", "another")
)
_NUMBER = re.compile(
    rf"""(?<![\w.,:/]) [-−]? (?: \d{{1,3}}(?:,\d{{3}})+ | \d+ ) (?:\.\d+)? (?!\w|[:/,.]\d)
      | \b(?:{"|".join(_TENS)}) (?:[-\s](?:{"|".join(_ONES[1:10])}))? \b
      | {_ONE_THAT_COUNTS} \bone\b (?!\s+of\b | ['’])
      | \b(?:{"|".join(word for word in _ONES[::-1] if word != "one")}) \b""",
    re.IGNORECASE | re.VERBOSE,
)
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"  # kana and han
_WORD = re.compile(rf"(?<!\w)-?\d+(?:\.\d+)?|[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_ARTICLES = ("a", "an", "the")
_WRONG = r"(?:wrong|incorrect|false|untrue|mistaken)\b"
_NOT = re.compile(
    rf"""\b(?:not|no|never|neither|nor|none|without|cannot)\b | n['’]t\b
      | (?:\b(?:is|are|was|were|be|being|seems?)|['’]s)\s+(?:\w+ly\s+)?{_WRONG}""",
    re.IGNORECASE | re.VERBOSE,
)


def normalised(text: str) -> tuple[str, ...]:
    """The words of ``text``, case-folded, without punctuation and articles; numbers, also in words, as digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(word for word in _WORD.findall(_NUMBER.sub(_as_digits, folded)) if word not in _ARTICLES)


def _as_digits(match: re.Match[str]) -> str:
    """``twenty-one`` as 21, ``1,000.50`` as 1000.5."""
    text = match[0].lower()
    if any(map(str.isdigit, text)):
        return f"{Decimal(text.replace(',', '').replace('−', '-')).normalize():f}"
    return str(sum(_VALUES[word] for word in re.split(r"[-\s]", text)))


def _negated(text: str) -> bool:
    """Whether there is a *not* in a text, or something *is wrong*."""
    return _NOT.search(text) is not None


def _runs(words: Sequence[str], wanted: Sequence[str]) -> list[range]:
    """Where ``wanted`` stands in ``words``, as places."""
    size = len(wanted)
    starts = range(len(words) - size + 1) if size else ()
    return [range(i, i + size) for i in starts if tuple(words[i : i + size]) == tuple(wanted)]


# ---- yes or no, numbers --------------------------------------------------------------------------------------------

_SAID_YES_NO = re.compile(
    r"\banswer\b[\s:*_\"'“]*(?:is|was|would\ be|should\ be)?[\s:*_\"'“]*(yes|no)\b(?!\s+\w)", re.IGNORECASE
)


def read_yes_no(text: str) -> str | None:
    """``yes`` or ``no`` where a text begins with it as its answer, or says that the answer is one of them."""
    found = {word.lower() for word in _SAID_YES_NO.findall(text)}
    if swap_yes_no(text) != text:
        found.add(words_of(text)[0])
    return found.pop() if len(found) == 1 else None


def read_number(text: str) -> str | None:
    """The one number of a text, in digits; None of a text with none, several, or a *not*."""
    found = {_as_digits(match) for match in _NUMBER.finditer(text)}
    return found.pop() if len(found) == 1 and not _negated(text) else None


def _in_form(number: str, like: str) -> str:
    """A number in digits or words, as another one is written."""
    if any(map(str.isdigit, like)) or not number.isdecimal() or int(number) > 99:
        return number
    tens, ones = divmod(int(number), 10)
    word = _ONES[int(number)] if int(number) < 20 else "-".join([_TENS[tens - 2], *([_ONES[ones]] if ones else [])])
    return word.capitalize() if like[0].isupper() else word


# ---- choices -------------------------------------------------------------------------------------------------------

_OPTION_LINE = re.compile(r"^[ \t]*(?:[(\[]([A-Za-z])[)\]][ \t]*|([A-Za-z])[.):][ \t]+)(?=\S)", re.MULTILINE)
_OPTION_INSIDE = re.compile(r"(?<!\w)\(([A-Za-z])\)\s*(?=\S)")

_LETTERS = (
    re.compile(r"(?<!\w)[(\[]\s*([A-Za-z])\s*[)\]]"),  # (B), anywhere
    re.compile(  # B. or B) or B, at the beginning; a small one only before a bracket, or if it is all
        r"""^[\s*_"'“]*(?:([A-Z])(?=[*_"'”]*(?:\s*[).:,\n]|\s*$|\s[-–—]\s))|([a-z])(?=\)|[.*_"'”]*\s*$))"""
    ),
    re.compile(  # the answer is B; but not: the answer is A man
        r"""\b(?i:answer|option|choice)\b(?:\s+(?i:is|was|would\ be|should\ be|must\ be))?\s*[:=-]?\s*["'“*_]*
        (?:([B-HJ-Z])\b(?!['’-]) | ([AI])\b(?!['’-]|[ \t]+[a-z]))""",
        re.VERBOSE,
    ),
)
_AGAINST = re.compile(
    rf"\b{_WRONG}|(?:\bnot|\bnever|n['’]t)\s+(?:\w+\s+){{0,3}}(?:right|correct|true)\b", re.IGNORECASE
)
_LOOSE = re.compile(r"\b[B-HJ-Z]\b(?!['’])")
_AROUND_A_CHOICE = frozenset(
    ("answer", "is", "option", "choice", "correct", "right", "best", "final", "my", "it", "would", "be")
)


def options_of(question: str) -> dict[str, str]:
    """Letter -> text of the options in a question, A and B at least; the last list of them. Empty if it has none."""
    for pattern in (_OPTION_LINE, _OPTION_INSIDE):
        marks = _consecutive(list(pattern.finditer(question)))
        if len(marks) > 1:
            ends = [mark.start() for mark in marks[1:]] + [len(question)]
            texts = [question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
            if pattern is _OPTION_LINE:
                texts[-1] = texts[-1].partition("\n")[0].strip()
            return {_letter(mark).upper(): text.rstrip(" .;,") for mark, text in zip(marks, texts, strict=True)}
    return {}


def _consecutive(marks: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The last marks that go A, B, C and so on."""
    found: list[re.Match[str]] = []
    for mark in marks:
        letter = _letter(mark).upper()
        if letter == "A":
            found = [mark]
        elif found and ord(letter) == ord("A") + len(found):
            found.append(mark)
    return found


def _letter(match: re.Match[str]) -> str:
    return next(filter(None, match.groups()))


def _letters(text: str) -> Iterator[re.Match[str]]:
    """Where a text names an option by its letter."""
    for pattern in _LETTERS:
        yield from pattern.finditer(text)


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a text takes; None where it takes none, or more than one, or contradicts itself.

    By its letter (``(B)``, ``B.``, ``The answer is B``) or by an option's words, unless there is a *not* beside them:
    a text may have one only behind the letter that it begins with, in its reasons or in the option's own words.
    """
    names = {letter: normalised(option) for letter, option in options.items()}
    words = normalised(text)
    for mark in _letters(text):
        letter, rest = _letter(mark).upper(), normalised(text[mark.end() :])
        if not normalised(text[: mark.start()]) and letter in names and rest in ((), names[letter]):
            return letter
    same = [letter for letter, name in names.items() if name and name == words]
    if same:
        return same[0] if len(same) == 1 else None
    letters = {said.upper() for mark in _letters(text) if (said := _letter(mark)).isupper() or said.upper() in options}
    named = set() if _negated(text) else _named(words, names)
    if letters:
        [letter, *others] = letters | {said for said in _LOOSE.findall(text) if said in options}
        if others or letter not in options or named and letter not in named:
            return None
        return None if _doubted(text, letter, options[letter]) else letter
    return named.pop() if len(named) == 1 else None


def _doubted(text: str, letter: str, option: str) -> bool:
    """Whether a text that names an option by its letter may speak against it.

    Not where the *not* is in the ``option``; nor in the reasons of a text that begins with the letter, which are what
    follows ``because`` or ``since``, or the option's words and a stop.
    """
    own = rf"(?<!\w){re.escape(option) or '(?!)'}(?!\w)"
    begun = any(
        _letter(mark).upper() == letter and set(normalised(text[: mark.start()])) <= _AROUND_A_CHOICE
        for mark in _letters(text)
    )
    reasons = rf"\b(?:because|since)\b|{own}\s*[.,;:\n]"
    said, *why = re.split(reasons, text, maxsplit=1, flags=re.IGNORECASE) if begun else [text]
    said = re.sub(own, " ", said, flags=re.IGNORECASE)
    return _negated(said) or any(_AGAINST.search(part) for part in (said, *why))


def _named(words: Sequence[str], names: Mapping[str, Sequence[str]]) -> set[str]:
    """The options whose words stand in an answer; not those that stand there only inside a longer one."""
    found = {letter: _runs(words, name) for letter, name in names.items()}
    everywhere = [run for runs in found.values() for run in runs]
    return {
        letter
        for letter, runs in found.items()
        if any(not any(_inside(run, other) for other in everywhere) for run in runs)
    }


def _inside(run: range, other: range) -> bool:
    return len(run) < len(other) and run.start >= other.start and run.stop <= other.stop


def _put_option(truth: str, options: Mapping[str, str], right: str, said: str) -> str | None:
    """``truth`` with another option's letter and text; None where it says more than which option is right."""
    cuts: dict[tuple[int, int], str] = {}
    for mark in _letters(truth):
        letter = _letter(mark)
        if letter.upper() == right:
            start = mark.start(mark.lastindex)
            cuts[start, start + 1] = said if letter.isupper() else said.lower()
    for match in re.finditer(rf"(?<!\w){re.escape(options[right])}(?!\w)", truth, re.IGNORECASE):
        if match[0] and not any(match.start() <= start < match.end() for start, _ in cuts):
            cuts[match.span()] = _begun_as(options[said], match[0], options[right])
    if not cuts:
        return _like(options[said], truth)
    pieces, kept, end = [], [], 0
    for (start, stop), new in sorted(cuts.items()):
        kept.append(truth[end:start])
        pieces += [truth[end:start], new]
        end = stop
    kept.append(truth[end:])
    return "".join([*pieces, truth[end:]]) if set(normalised(" ".join(kept))) <= _AROUND_A_CHOICE else None


# ---- form ----------------------------------------------------------------------------------------------------------


def _begun_as(text: str, like: str, listed: str) -> str:
    """``text`` with a capital where ``like`` has one and the way that it was ``listed`` has none; and the reverse."""
    if like[0].isupper() and listed[0].islower():
        return text[:1].upper() + text[1:]
    if like[0].islower() and listed[0].isupper():
        return text[:1].lower() + text[1:]
    return text


def _like(answer: str, truth: str) -> str:
    """A short answer in the form of the true one: its capital, its stop, and no article where that has none."""
    text, stop = answer.strip().rstrip(" .!。"), re.search(r"[.!。]*\s*$", truth)[0]
    first, _, rest = text.partition(" ")
    if first.lower() in _ARTICLES and rest and truth.split()[0].lower() not in _ARTICLES:
        text = rest.lstrip()
    if truth.strip()[0].isupper():
        text = text[:1].upper() + text[1:]
    elif truth == truth.lower() and text[1:] == text[1:].lower():
        text = text[:1].lower() + text[1:]
    return text + stop
