"""Words of a caption: where they are, and their singular."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(r"[^\W_]+|[^\w\s-]")

_IRREGULAR = {
    "buses": "bus",
    "calves": "calf",
    "children": "child",
    "cookies": "cookie",
    "feet": "foot",
    "geese": "goose",
    "halves": "half",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "movies": "movie",
    "oxen": "ox",
    "people": "person",
    "pies": "pie",
    "scarves": "scarf",
    "shelves": "shelf",
    "shoes": "shoe",
    "skis": "ski",
    "teeth": "tooth",
    "ties": "tie",
    "toes": "toe",
    "wolves": "wolf",
    "women": "woman",
}
_COMPOUNDS = ("women", "men", "children")  # policemen, grandchildren
_NO_COMPOUNDS = frozenset({"omen", "specimen", "abdomen", "regimen", "semen", "acumen", "stamen", "ramen"})
_HISSING = ("sses", "shes", "ches", "xes", "zzes", "oes")  # plurals in -es of words that do not end in e
_NO_PLURAL = ("ss", "us", "is")


def singular(word: str) -> str:
    """The singular of a lower-case English word by rule; a word that is no plural stays as it is.

    Examples: dogs -> dog, buses -> bus, glasses -> glass, berries -> berry; bus, glass and tennis stay.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for plural in _COMPOUNDS:
        if word.endswith(plural) and word not in _NO_COMPOUNDS:
            return word.removesuffix(plural) + _IRREGULAR[plural]
    if len(word) < 4 or not word.endswith("s") or word.endswith(_NO_PLURAL):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(_HISSING) else word[:-1]


def tokens(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and singular of each word of ``text``, and each mark of punctuation as a token of its own.

    A hyphen parts words and is no token, so "traffic-light" is the two words "traffic light"; any other mark
    between two words keeps them from being read as one name.
    """
    for match in _TOKEN.finditer(text):
        yield match.start(), match.end(), singular(match.group().lower())
