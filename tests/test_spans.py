"""Where two texts differ."""

from __future__ import annotations

import random

import pytest

from mmalign.checks import spans as checked
from mmalign.spans import compare, differences


def marked(first: str, second: str, *, exact: bool = False, **options) -> tuple[list[str], list[str]]:
    """The texts of the spans."""
    mine, theirs = compare(first, second, exact=exact).spans(**options)
    return [first[a:b] for a, b in mine], [second[a:b] for a, b in theirs]


def test_differences_are_marked_on_both_sides_and_where_only_one_says_something():
    first, second = "A red square is here. It is big.", "A blue square is here."
    mine, theirs = differences(first, second)
    assert [first[a:b] for a, b in mine] == ["red", "It is big."]
    assert [second[a:b] for a, b in theirs] == ["blue"]
    assert differences(first, first) == ((), ())
    assert [list(span) for span in differences("A dog", "Two cats")[0]] == [[0, 5]]


def test_words_that_stand_twice_are_marked_where_they_differ():
    assert compare("a dog and a dog", "a dog and a cat").spans() == (((12, 15),), ((12, 15),))


@pytest.mark.parametrize("first, second", [
    ("A dog.", "A dog"), ("A dog, here.", "a dog here"), ('"Yes!"', "Yes."), ("**Dog**", "dog"), ("it’s", "it's"),
    ("- a dog\n- a cat", "a dog\n\na cat"), ("caf\u00e9", "cafe\u0301"), ("犬がいます。", "犬がいます"),
    ("Straße", "STRASSE"),
])  # fmt: skip
def test_case_and_punctuation_around_words_are_no_difference_unless_they_are_to_be(first, second):
    assert marked(first, second) == ([], [])
    assert compare(first, second).share == 0
    assert marked(first, second, exact=True) != ([], [])


@pytest.mark.parametrize("first, second", [
    ("3.5", "35"), (".5", "5"), ("-5", "5"), ("5%", "5"), ("C++", "C"), ("3 < 5", "3 > 5"), ("don't", "dont"),
    ("50 %", "50"),
])  # fmt: skip
def test_what_belongs_to_a_word_is_a_difference(first, second):
    assert marked(first, second) != ([], [])


def test_a_stop_goes_with_the_word_before_it():
    assert marked("A dog.", "A dog and a cat.") == ([], ["and a cat."])
    assert marked("A dog.", "A dog and a cat.", exact=True) == (["dog."], ["dog and a cat."])
    assert marked("A red dog.", "A red cat") == (["dog."], ["cat"])


def test_scripts_without_spaces_are_taken_by_character():
    assert marked("犬が赤い家にいます。", "猫が青い家にいます。") == (["犬", "赤"], ["猫", "青"])
    assert marked("这是「红色」的车。", "这是「蓝色」的车。") == (["「红"], ["「蓝"])
    assert marked("这里有一只狗。", "这里有一只狗。还有一只猫。") == ([], ["还有一只猫。"])
    assert marked("iPhoneが3台", "iPhoneが4台") == (["3"], ["4"])
    assert marked("かばん", "か\u3099ばん") == (["か"], ["か\u3099"]), "a mark belongs to what it stands on"
    assert marked("แมวดำ", "แมวขาว") == (["ดำ"], ["ขาว"])
    assert marked("빨간 개가 있다", "파란 개가 있다") == (["빨간"], ["파란"]), "Korean has spaces"


def test_no_limit_of_length_makes_common_words_differences():
    """``difflib`` takes what is common in 200 words and more for junk, unless told otherwise."""
    text = "the dog is on the grass " * 60
    assert marked(text + "today", text + "now") == (["today"], ["now"])


def test_joining():
    first, second = "a b c d e f g h", "A x c y e f z h"
    assert marked(first, second) == (["b", "d", "g"], ["x", "y", "z"])
    assert marked(first, second, join=1) == marked(first, second)
    assert marked(first, second, join=2) == (["b c d", "g"], ["x c y", "z"])
    assert marked(first, second, join=3) == (["b c d e f g"], ["x c y e f z"])
    assert marked("a b c", "a x b c y", join=3) == (["b c"], ["x b c y"]), "words between what only one says too"


def test_both_sides():
    assert marked("a dog is here", "a dog and a cat is here", both=True) == (["is"], ["and a cat"])
    assert marked("a dog", "a dog and a cat", both=True) == (["dog"], ["and a cat"]), "nothing comes there instead"
    assert marked("dogs and cats", "dogs", both=True) == (["and cats"], ["dogs"])
    assert marked("a b", "x a y b z", both=True) == (["a b"], ["x", "y", "z"])
    assert marked("...", "a dog", both=True) == ([], ["a dog"]), "no word to mark"


def test_share():
    assert compare("a b c d", "a b c d").share == 0
    assert compare("a b c d", "a x c d").share == pytest.approx(2 / 8)
    assert compare("a b c", "a b c d e").share == pytest.approx(2 / 8)
    assert compare("a b", "c d").share == 1
    assert compare("...", "!").share == 0 and compare("", "a").share == 1


def random_texts(count: int):
    rng = random.Random(0)
    words = ["a", "Dog.", "dog", "cat,", "—", "3.5", "犬", "犬が。", "「家", "แมว", "...", "is"]
    for _ in range(count):
        first = [rng.choice(words) for _ in range(rng.randrange(12))]
        second = [rng.choice(words) if rng.random() < 0.3 else word for word in first if rng.random() < 0.8]
        gaps = [rng.choice([" ", "\n", "  "]) for _ in range(2)]
        yield gaps[0].join(first), gaps[1].join(second)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("join", [0, 2])
def test_properties(exact, join):
    """Inside the texts, sorted, disjoint; what is outside has the same words on both sides."""
    for first, second in random_texts(300):
        compared = compare(first, second, exact=exact)
        spans = compared.spans(join=join)
        for text, own, words in zip((first, second), spans, compared.words, strict=True):
            assert checked(own) == own
            assert all(end <= len(text) and text[start:end].strip() == text[start:end] for start, end in own)
            starts, ends = ({word[edge] for word in words} for edge in (0, 1))
            assert all(start in starts and end in ends for start, end in own), "whole words"
        rest = [without(text, own) for text, own in zip((first, second), spans, strict=True)]
        assert compare(*rest, exact=exact).share == 0
        assert (spans == ((), ())) == (compared.share == 0)
        both = compared.spans(join=join, both=True)
        assert all(checked(own) == own for own in both)
        if all(compared.words) and compared.share:
            assert all(both)


def without(text: str, spans) -> str:
    for start, end in reversed(spans):
        text = f"{text[:start]} {text[end:]}"
    return text
