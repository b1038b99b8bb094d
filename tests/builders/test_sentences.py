"""Sentence ends: in finished text, and while it is written."""

from __future__ import annotations

import pytest

from mmalign.builders import _sentences

TEXTS = {
    "decimals": ["There is a 3.5 m cat.", "It runs."],
    "titles and initials": ["It is by Dr. Smith of the U.S. Army.", "J. Doe saw it."],
    "number or answer": ["No. 5 is red.", "Is there a cat?", "No.", "There is a dog!"],
    "abbreviations": ["Dogs, e.g. poodles, etc. are here.", "At 5 p.m. they left.", "Cats etc.", "The end."],
    "ellipsis": ["Well... perhaps a cat.", "Wait...", "Now."],
    "quotes and emphasis": ['A sign says "Stop."', "**It is red.**", "(It is old.)", "So."],
    "lower case": ["there is a cat.", "it is red."],
    "count at the end": ["There are 3.", "The cats sleep."],
    "no stop": ["a red circle"],
    "other stops": ["猫がいます。", "犬もいます。"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_split(name: str) -> None:
    joint = "" if name == "other stops" else " "
    text = joint.join(TEXTS[name])
    assert [text[start:stop] for start, stop in _sentences.split(text)] == TEXTS[name]


def test_split_keeps_lists_and_line_breaks() -> None:
    text = "\n Things:\n1. A cat. It sits.\n2. **A dog**\n\n- a bird\n"
    sentences = ["Things:", "1. A cat.", "It sits.", "2. **A dog**", "- a bird"]
    assert [text[start:stop] for start, stop in _sentences.split(text)] == sentences


@pytest.mark.parametrize("text", ["", " \n ", "..."])
def test_split_of_nothing_much(text: str) -> None:
    assert len(_sentences.split(text)) == bool(text.strip())


def test_an_end_shows_only_when_something_follows() -> None:
    text = " it is 3.5 m. The"
    ends = [_sentences.first_end(text[:length]) for length in range(len(text) + 1)]
    assert ends == [None] * 15 + [13] * 3, "3. could become 3.5, and m. could become m.p.h."


def test_first_end_is_judged_by_what_stands_before() -> None:
    text = "There are 3. The rest is gone."
    assert _sentences.first_end(text, len("There are")) == len("There are 3.")
    assert _sentences.first_end("3. The rest is gone.") is None  # alone it could be the number of a list item
