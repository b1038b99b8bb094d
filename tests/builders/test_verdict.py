"""Rules that read what an answer says, or that they cannot."""

from __future__ import annotations

import re

import pytest

from mmalign.builders._verdict import (
    CHOICE,
    NUMBER,
    OPEN,
    SHORT,
    YES_NO,
    Verdict,
    asked,
    normalised,
    options_of,
    read_choice,
    read_number,
    read_yes_no,
)

DOOR = {"A": "closing the door", "B": "opening the door", "C": "opening", "D": "Nothing"}
QUESTION = "What does he do?\nOptions:\n" + "\n".join(f"({letter}) {text}." for letter, text in DOOR.items())


@pytest.mark.parametrize("question, options", [
    (QUESTION, DOOR),
    ("Q?\nA. cat\nB. dog", {"A": "cat", "B": "dog"}),
    ("Q?\nA) cat\n  B) dog.\nAnswer with the letter.", {"A": "cat", "B": "dog"}),
    ("Q?\n[A] cat\n[B] dog", {"A": "cat", "B": "dog"}),
    ("Q?\nA: cat\nB: dog", {"A": "cat", "B": "dog"}),
    ("Is it (A) a cat, (B) a dog, or (C) both?", {"A": "a cat", "B": "a dog, or", "C": "both?"}),
    ("(a) cat\n(b) dog", {"A": "cat", "B": "dog"}),
    ("(A) old\n(B) older\n\nNow:\n(A) new\n(B) newer", {"A": "new", "B": "newer"}),
    ("What does he do?", {}),
    ("A. Lincoln met B. Obama: where?", {}),
    ("(A) alone", {}),
    ("(B) b\n(C) c", {}),
])  # fmt: skip
def test_options_of_a_question(question: str, options: dict[str, str]) -> None:
    assert options_of(question) == options


@pytest.mark.parametrize("text, letter", [
    ("B", "B"), ("b", "B"), ("(B)", "B"), ("(b)", "B"), ("B.", "B"), ("B) opening the door.", "B"), ("**B**", "B"),
    ("B: opening the door", "B"), ("B - opening the door", "B"), ("B\n\nThe hand moves.", "B"), ("A", "A"),
    ("The answer is (B)", "B"), ("The answer is B.", "B"), ("Answer: B", "B"), ("The correct option is B", "B"),
    ("The answer is B because he pulls", "B"), ("Best choice: **(B)**", "B"), ("I think (b).", "B"),
    ("opening the door", "B"), ("He is opening the door.", "B"), ("Opening", "C"), ("He is opening it.", "C"),
    ("closing door", "A"), ("nothing", "D"), ("Closing the door, as in (A).", "A"),
    ("(B) opening the door after closing the door", "B"), ("(D) Nothing", "D"),
    # never guessed
    ("", None), ("A man is here", None), ("The answer is A man", None), ("(A) or (B)", None),
    ("It is (B), not (A)", None),
    ("(B) closing the door.", None), ("He is not opening the door", None), ("E", None), ("(E)", None),
    ("Vitamin B", None),
    ("It cannot be (B).", None), ("It is not (A).", None), ("(A) is wrong", None), ("(A) is clearly incorrect", None),
    ("Option B isn't right.", None), ("The incorrect option is B", None), ("B. No.", None), ("(B): wrong", None),
    ("(B) He is not opening the door", None), ("B, since A man is never right", None), ("B is not it, since", None),
    ("(B) opening the door. This is not the right one.", None), ("He does not run, so the answer is B", None),
    # a not that is about something else
    ("(B), because he is not outside", "B"), ("The answer is (B), since it was not open.", "B"),
    ("(B) opening the door. He does not close it.", "B"), ("B. opening the door, not a window", "B"),
    ("He runs.", None), ("A and B", None), ("either closing or opening the door: closing the door", None),
])  # fmt: skip
def test_a_choice_is_read_or_not(text: str, letter: str | None) -> None:
    assert read_choice(text, DOOR) == letter


def test_a_choice_is_not_the_first_letter_that_comes() -> None:
    """As in RRPO's evaluation of MVBench."""
    text = "The answer is (B)"
    assert re.search("[A-Z]", text, re.IGNORECASE)[0] == "T"
    assert read_choice(text, {letter: letter * 9 for letter in "ABCT"}) == "B"


def test_a_not_in_an_option_is_no_not() -> None:
    options = {"A": "not opening the wrong door", "B": "No", "C": "both"}
    assert read_choice("The answer is (A) not opening the wrong door", options) == "A"
    assert read_choice("(B) No, there is none", options) == "B"
    assert read_choice("It is not (A) not opening the wrong door", options) is None


def test_two_options_with_the_same_words_are_told_apart_by_their_letters() -> None:
    same = {"A": "a dog", "B": "the dog"}
    assert read_choice("dog", same) is None and read_choice("(B) the dog", same) == "B"
    question = asked("Q?\n(A) a dog\n(B) the dog\n(C) a cat", "(A) a dog", 3)
    assert question.verdict("(B)") == Verdict(None) and question.verdict("(A)") == Verdict(True)
    assert question.verdict("C").rejected == "(C) a cat", "nobody is wrong who says the same"


@pytest.mark.parametrize("text, said", [
    ("Yes", "yes"), ("no.", "no"), ("**Yes**, it is", "yes"), ("No, there is a dog.", "no"), ("Yes there is", "yes"),
    ("The answer is no.", "no"), ("Answer: Yes", "yes"),
    ("No cats are there", None), ("There is no dog", None), ("I do not know", None), ("Yes. The answer is no.", None),
    ("Nope", None), ("", None),
])  # fmt: skip
def test_yes_and_no(text: str, said: str | None) -> None:
    assert read_yes_no(text) == said


@pytest.mark.parametrize("text, number", [
    ("3", "3"), ("Three.", "3"), ("There are 3 dogs", "3"), ("twenty-one", "21"), ("Forty two", "42"),
    ("1,000", "1000"),
    ("3.50", "3.5"), ("-3", "-3"), ("0", "0"), ("zero", "0"), ("one", "1"), ("There is one dog.", "1"), ("3, 3!", "3"),
    ("1234567", "1234567"), ("The one with 4 legs", "4"), ("20", "20"),
    ("none", None), ("2 or 3", None), ("2-3", None), ("7:30", None), ("1/2", None), ("1,5", None), ("not 3", None),
    ("No one", None), ("One of them", None), ("21st", None), ("a couple", None), ("threefold", None), ("B2", None),
])  # fmt: skip
def test_numbers(text: str, number: str | None) -> None:
    assert read_number(text) == number


def test_words() -> None:
    assert normalised("The  QUICK, brown-fox; has a twenty-two  “legs”.") == (
        "quick",
        "brown",
        "fox",
        "has",
        "22",
        "legs",
    )
    assert normalised("ﬁve Ａ 3.0") == ("5", "3") and normalised("a 猫。犬") == ("猫", "犬") and normalised(" - ") == ()


@pytest.mark.parametrize("question, truth, kind", [
    (QUESTION, "(B) opening the door.", CHOICE), (QUESTION, "B", CHOICE), (QUESTION, "opening the door", CHOICE),
    ("Is it?", "Yes.", YES_NO), ("Is it?", "no", YES_NO), ("Is it?", "Yes, it is a very red dog.", OPEN),
    ("How many?", "3", NUMBER), ("How many?", "Twelve.", NUMBER), ("How many?", "three dogs", SHORT),
    ("What?", "A goose.", SHORT), ("What?", "playing the guitar", SHORT), ("What?", "He plays the guitar well.", OPEN),
    ("What?", "a\nb", OPEN), ("What?", "???", OPEN), ("When?", "7:30", SHORT),
])  # fmt: skip
def test_kinds(question: str, truth: str, kind: str) -> None:
    assert asked(question, truth, short_words=3).kind == kind


def test_no_short_answers_and_truths_that_are_no_option() -> None:
    assert asked("What?", "goose", short_words=0).kind == OPEN
    assert asked("How many?", "3", short_words=0).kind == NUMBER
    assert asked(QUESTION, "He sings.", short_words=3) is None
    assert asked(QUESTION, "(A) or (B)", short_words=3) is None


@pytest.mark.parametrize("truth, answer, rejected", [
    ("(A) closing the door.", "The answer is (B)", "(B) opening the door."),
    ("(A) Closing the door.", "B", "(B) Opening the door."),
    ("A", "(B)", "B"), ("(A)", "b", "(B)"), ("a)", "B", "b)"),
    ("Answer: (A) closing the door", "D", "Answer: (D) Nothing"),
    ("The answer is A.", "opening the door", "The answer is B."), ("A. closing the door", "B", "B. opening the door"),
    ("closing the door", "(D)", "Nothing"), ("closing door", "B", "opening the door"),
    ("(D) nothing", "A", "(A) closing the door"),
    ("(A) closing the door, since it is cold", "B", None),
])  # fmt: skip
def test_the_wrong_option_takes_the_place_of_the_right_one(truth: str, answer: str, rejected: str | None) -> None:
    assert asked(QUESTION, truth, 3).verdict(answer) == Verdict(False, rejected)


def test_only_the_letter_that_names_the_option_is_exchanged() -> None:
    """The paper's own example, in which both options say much the same."""
    question = "Q?\n(A) x\n(B) Pretending to close A without closing it\n(C) Pretending to open A without opening it"
    verdict = asked(question, "(B) Pretending to close A without closing it", 3).verdict("(C)")
    assert verdict.rejected == "(C) Pretending to open A without opening it"


@pytest.mark.parametrize("truth, answer, verdict", [
    ("Yes.", "No, there is none.", Verdict(False, "No.")), ("no", "Yes", Verdict(False, "yes")),
    ("(YES)", "no", Verdict(False, "(NO)")), ("Yes.", "Yes, it is", Verdict(True)),
    ("Yes", "There is a dog", Verdict(None)),
    ("3", "There are four", Verdict(False, "4")), ("Three.", "4", Verdict(False, "Four.")),
    ("three", "21", Verdict(False, "twenty-one")),
    ("three", "120", Verdict(False, "120")), ("two", "2.5", Verdict(False, "2.5")), ("3", "three", Verdict(True)),
    ("3", "2 or 3", Verdict(None)), ("3", "many", Verdict(None)),
])  # fmt: skip
def test_yes_no_and_numbers_keep_the_form_of_the_truth(truth: str, answer: str, verdict: Verdict) -> None:
    assert asked("?", truth, 3).verdict(answer) == verdict


@pytest.mark.parametrize("truth, answer, rejected", [
    ("Goose.", "a dog", "Dog."), ("goose", "Dog!", "dog"), ("A goose.", "a dog", "A dog."),
    ("goose", "the red dog", "red dog"),
    ("goose", "NASA", "NASA"), ("Paris", "london", "London"), ("three dogs", "4 dogs", "4 dogs"),
    ("goose ", "dog", "dog "),
    ("goose", "There is nothing at all to see", None), ("goose", "It is a dog that runs in the park", None),
    ("goose", "dog\ncat", None),
    ("He plays football.", "He throws a red ball far.", "He throws a red ball far."),
])  # fmt: skip
def test_short_answers_that_are_wrong_may_be_paraphrases(truth: str, answer: str, rejected: str | None) -> None:
    assert asked("?", truth, 3).verdict(answer) == Verdict(False, rejected, certain=False)


@pytest.mark.parametrize("truth, answer", [

    ("goose", "A Goose!"), ("goose", "It is a goose."), ("two dogs", "There are 2 dogs"),
    ("playing the guitar", "playing guitar"),
])  # fmt: skip
def test_short_answers_that_are_right(truth: str, answer: str) -> None:
    assert asked("?", truth, 3).verdict(answer) == Verdict(True)


@pytest.mark.parametrize("truth, answer", [
    ("left", "Left, no doubt."), ("Left.", "Left without turning."), ("left", "Left is wrong"),
    ("goose", "It is not a goose"), ("goose", "It can't be a goose."),
])  # fmt: skip
def test_a_short_answer_with_the_truth_and_a_not_cannot_be_told(truth: str, answer: str) -> None:
    assert asked("?", truth, 3).verdict(answer) == Verdict(None)


def test_open_answers_are_right_where_they_have_the_same_words_and_else_nobody_knows() -> None:
    question = asked("?", "He runs in the park all day.", 3)
    assert question.verdict("he runs, in a park ALL day!") == Verdict(True)
    assert question.verdict("He runs in the park all day, and sings.") == Verdict(None)
    assert asked("?", "goose", 3).verdict("...") == Verdict(None), "nothing is said"
    assert asked("?", "☀ ☀", 3).verdict("☂") == Verdict(None) and asked("?", "☀ ☀", 3).verdict("☀  ☀ ") == Verdict(True)
