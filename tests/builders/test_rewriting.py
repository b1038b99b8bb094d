"""Cutting sentences, swapping Yes and No, and putting an answer together again."""

from __future__ import annotations

import pytest

from mmalign.builders._rewriting import Part, cut, join, rebuild, swap_yes_no

SWAPS = {
    "Yes": "No",
    "no.": "yes.",
    "NO!": "YES!",
    "No, there is a cat.": "Yes, there is a cat.",
    "yes there is": "no there is",
    "**Yes**, it is.": "**No**, it is.",
    '"No" - I think': '"Yes" - I think',
}
KEPT = ("Note that it is red.", "None of them.", "Nothing.", "North of it.", "Yesterday.", "No cats are here.",
        "No-one is here.", "No one is here.", "I say yes.", "Yes-men sit there.")  # fmt: skip


@pytest.mark.parametrize("sentence", SWAPS)
def test_swap(sentence: str) -> None:
    assert swap_yes_no(sentence) == SWAPS[sentence]


@pytest.mark.parametrize("sentence", KEPT)
def test_words_that_only_begin_like_yes_or_no_are_left(sentence: str) -> None:
    assert swap_yes_no(sentence) == sentence


def test_cut_is_uniform_over_the_word_ends_but_the_last() -> None:
    beginnings = [cut("A large red circle.", 7, False, (i + 0.5) / 30).beginning for i in range(30)]
    assert beginnings == ["A"] * 10 + ["A large"] * 10 + ["A large red"] * 10
    assert cut("A cat", 7, False, 0.999) == Part(7, 12, "A")


def test_one_word_is_written_anew() -> None:
    assert cut("Yes.", 0, False, 0.9) == Part(0, 4, "")
    assert cut("Cat.", 0, True, 0.9) == Part(0, 4, "")


def test_one_swapped_word_is_the_answer() -> None:
    assert cut("Yes.", 3, True, 0.9) == Part(3, 7, "No.", open=False)
    assert join("Oh Yes.", cut("Yes.", 3, True, 0.9), "") == "No."


def test_swapped_beginning_is_continued() -> None:
    assert cut("No, there is a cat.", 0, True, 0.0).beginning == "Yes,"


@pytest.mark.parametrize("rest, sentence", [
    (" dog. It is big.", "A dog."),
    ("  dog! ", "A dog!"),
    (' "dog?"', 'A "dog?"'),
    (" 犬。", "A 犬。"),
    (" dog\n", "A dog"),
    (" dog and a", "A"),
    (" dog, 3.5", "A"),
    ("\n\ndog.", "A dog."),
    ("nt.", "Ant."),
    (", dog.", "A, dog."),
    (" 3.5 m dog. And", "A 3.5 m dog."),
    (" dog\n- a cat", "A dog"),
    (" ", "A"),
])  # fmt: skip
def test_join(rest: str, sentence: str) -> None:
    assert join("Hm. A cat.", Part(4, 10, "A"), rest) == sentence


def test_a_sentence_without_a_stop_needs_none() -> None:
    assert join("- A cat\n- A dog", Part(0, 7, "- A"), " bird") == "- A bird"


def test_join_of_a_whole_sentence() -> None:
    assert join("Hm.  A cat.", Part(5, 11, ""), " Dogs. Cats.") == "Dogs."


def test_prefix_ends_in_no_space_and_white_space_between_sentences_stays() -> None:
    answer = "\nOne cat.\n\n- Two dogs.  Three birds. \n"
    parts = [Part(1, 9, "One"), Part(11, 22, ""), Part(24, 36, "Three")]
    assert [part.prefix(answer) for part in parts] == ["One", "One cat.", "One cat.\n\n- Two dogs.  Three"]
    assert rebuild(answer, parts, ["1", "2", "3"]) == "\n1\n\n2  3 \n"
