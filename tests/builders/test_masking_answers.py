"""Masks in answers: by the rule, by a model, and what counts as an answer that was filled in."""

from __future__ import annotations

import pytest

from mmalign.builders import _masking
from mmalign.builders._masking import by_model, by_rule, flaw

CAPTION = "There is a large red circle at the top. A blue star is on the left, and 3.5 m away is one dog."
EVERYTHING = "There is a [MASK] at the [MASK]. A [MASK] is on the [MASK], and [MASK] is [MASK]."


def hidden(answer: str, spans: tuple) -> list[str]:
    return [answer[start:end] for start, end in spans]


def test_the_rule_hides_runs_of_content_words() -> None:
    masked = by_rule(CAPTION, "segment", 1.0, seed=0)
    assert masked.text == EVERYTHING
    assert hidden(CAPTION, masked.spans) == ["large red circle", "top", "blue star", "left", "3.5 m away", "one dog"]
    assert (masked.by, masked.asked, masked.ratio) == ("rule", 0, pytest.approx(12 / 23, abs=1e-6))


@pytest.mark.parametrize("answer, text", [
    ("Yes.", "[MASK]."),
    ("No, it is not.", "[MASK], it is [MASK]."),
    ("The image shows the man's well-known hat.", "The image shows the [MASK]."),
    ("- **Cat**: it’s big\n- dog", "- **[MASK]**: it’s [MASK]\n- [MASK]"),
    ("red, blue", "[MASK], [MASK]"),
])  # fmt: skip
def test_what_is_content(answer: str, text: str) -> None:
    assert by_rule(answer, "segment", 1.0, seed=0).text == text


def test_sentences_are_hidden_as_a_whole() -> None:
    answer = "It is here.  A red cat sits.\nNo. 5 is a dog!"
    assert by_rule(answer, "sentence", 1.0, seed=0).text == "It is here.  [MASK]\n[MASK]"
    some = {by_rule(answer, "sentence", 0.1, seed).text for seed in range(20)}
    assert some == {"It is here.  [MASK]\nNo. 5 is a dog!", "It is here.  A red cat sits.\n[MASK]"}


def test_nothing_to_hide() -> None:
    assert by_rule("It is there.", "segment", 1.0, seed=0) is None
    assert by_rule("It is there.", "sentence", 1.0, seed=0) is None
    assert by_rule("...", "segment", 1.0, seed=0) is None


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.9])
def test_the_rate_is_reached_and_hardly_passed(rate: float) -> None:
    """Whole segments, as few as reach the rate: at least one, and without the last one drawn it would be less."""
    sizes = {"large red circle": 3, "top": 1, "blue star": 2, "left": 1, "3.5 m away": 3, "one dog": 2}
    drawn = set()
    for seed in range(100):
        spans = by_rule(CAPTION, "segment", rate, seed).spans
        counts = [sizes[words] for words in hidden(CAPTION, spans)]
        assert sum(counts) >= rate * 12 > sum(counts) - max(counts)
        assert list(spans) == sorted(spans)
        drawn.update(hidden(CAPTION, spans))
    assert drawn == set(sizes), "none is always spared"
    assert by_rule(CAPTION, "segment", rate, 7) == by_rule(CAPTION, "segment", rate, 7)


@pytest.mark.parametrize("written, spans", [
    (EVERYTHING, ["large red circle", "top", "blue star", "left", "3.5 m away", "one dog"]),
    ("There is a [MASK] [mask] circle at the top. a blue star is on the left and 3.5 m away is one [ MASK ]",
     ["large red", "dog"]),
    ("There is a large red circle at the top. [MASK]",
     ["A blue star is on the left, and 3.5 m away is one dog"]),
    ("[MASK]", [CAPTION.rstrip(".")]),
])  # fmt: skip
def test_masks_of_a_model(written: str, spans: list[str]) -> None:
    masked = by_model(f"\n{written} ", CAPTION, asked=1)
    assert hidden(CAPTION, masked.spans) == spans
    assert masked.text == written.replace("[mask]", "[MASK]").replace("[ MASK ]", "[MASK]")
    assert (masked.by, masked.asked) == ("model", 1)
    assert masked.ratio == pytest.approx(sum(len(_masking._WORD.findall(span)) for span in spans) / 23, abs=1e-6)


def test_a_word_that_a_model_left_out_counts_as_hidden() -> None:
    masked = by_model("A [MASK] on table.", "A cat on the table.", asked=2)
    assert (masked.text, masked.ratio) == ("A [MASK] on table.", 0.4)


@pytest.mark.parametrize("written", [
    "",
    "A red cat sits.",                         # no mask
    "A red cat sits [MASK].",                  # hides nothing
    "Sure! A [MASK] cat sits.",                # says more than the answer
    "A red [MASK] stands.",                    # another word
    "A cat [MASK] red.",                       # another order
])  # fmt: skip
def test_masks_that_are_none(written: str) -> None:
    assert by_model(written, "A red cat sits.", asked=1) is None


@pytest.mark.parametrize("completed, expected", [
    ("A blue dog sits.", None),
    ("", "empty"),
    (" ...", "empty"),
    ("A [MASK] dog sits.", "mask_left"),
    ("A [mask] dog sits.", "mask_left"),
    ("a RED cat, sits", "same_words"),
    ("A.", "length"),
    ("A dog.", None),
    ("A blue dog sits on a large mat.", None),
    ("A blue dog sits on a very large mat.", "length"),
    ("Sure, a dog sits.", "preamble"),
    ("Sure! Here is a dog.", "preamble"),
    ("Here's a dog sits:", "preamble"),
    ("Here is the sentence: A dog.", "preamble"),
    ("The completed sentence is: A dog.", "preamble"),
    ("**Completed sentence:** A dog.", "preamble"),
    ("I'm sorry, I cannot see.", "preamble"),
    ("I can't do it.", "preamble"),
    ("Sure-footed goats sit here.", None),
    ("The final bus sits here.", None),
])  # fmt: skip
def test_flaws(completed: str, expected: str | None) -> None:
    assert flaw(completed, "A red cat sits.", 0.5, 2.0) == expected


def test_a_beginning_that_the_answer_has_too_is_no_preamble() -> None:
    assert flaw("Here is a blue dog.", "Here is a red cat.", 0.5, 2.0) is None
