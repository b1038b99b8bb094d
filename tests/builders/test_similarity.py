"""What the filter lets pass, and its encoders."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mmalign import runs
from mmalign.builders import _similarity, load
from mmalign.builders._similarity import cosines, encode_words, inputs, load_encoder, words_of
from mmalign.records import InputError
from mmalign.retrieval import Index

EPS = 0.97
CAPTION = "A large red circle is in the top left corner, to the left of the small blue star."


def similarity(text: str, other: str) -> float:
    return float(cosines(encode_words, [text], [other])[0])


def test_words_of_plain_ascii_are_found_as_those_of_any_text() -> None:
    """The quick way against the long one, which a letter of another script asks for."""
    every = "".join(map(chr, range(128)))
    for text in ("It's 3.5_big  ones, No. 3!\n(a)", every, "x".join(every), ""):
        assert words_of(text) == words_of(f"{text} é")[:-1]


@pytest.mark.parametrize("text, other", [
    ("A red circle.", "A blue circle."),
    (CAPTION, CAPTION.replace("red", "blue")),
    (CAPTION, CAPTION.replace("blue star", "blue star and a square")),
    ("The cat is left of the dog.", "The dog is left of the cat."),
    ("Yes.", "No."),
    ("3.5", "35"),
    ("猫がいます。", "犬がいます。"),
    ("A cat.", "."),
])  # fmt: skip
def test_one_word_passes(text: str, other: str) -> None:
    assert similarity(text, other) < EPS
    assert similarity(text, other) == pytest.approx(similarity(other, text))


@pytest.mark.parametrize("text, other", [
    (CAPTION, CAPTION),
    (CAPTION, CAPTION.upper().replace(".", "!").replace(",", "")),
    ("A red circle", " a  red **circle**. "),
    ("don't", "don’t"),
    ("!", "?"),
])  # fmt: skip
def test_case_and_punctuation_do_not(text: str, other: str) -> None:
    assert similarity(text, other) == 1.0


def test_one_word_in_n_costs_three_of_the_features() -> None:
    words = [f"w{i}" for i in range(20)]
    other = [*words[:10], "else", *words[11:]]
    assert similarity(" ".join(words), " ".join(other)) == pytest.approx(1 - 3 / (2 * 20 - 1))


def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    assert np.array_equal(encode_words(["a cat", "a dog"])[1], encode_words(["a dog"])[0])


def test_words_of_other_scripts() -> None:
    assert words_of("हिन्दी, Straße!") == ["हिन्दी", "strasse"]


ENCODER = """
import numpy as np

class Length:
    def __call__(self, texts):
        return np.array([[1.0, len(text)] for text in texts])

class Broken:
    def __call__(self, texts):
        return np.zeros(3)
"""


def test_an_encoder_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ENCODER)
    encode = load_encoder(f"{tmp_path}/mine.py:Length")
    assert cosines(encode, ["ab", "a"], ["cd", "b c d e"]).tolist() == pytest.approx([1.0, 8 / (2 * 50) ** 0.5])
    with pytest.raises(InputError, match=r"shape \(3,\) for 2 texts"):
        cosines(load_encoder(f"{tmp_path}/mine.py:Broken"), ["a"], ["b"])


@pytest.mark.parametrize("name, problem", [
    ("mpnet", "no such encoder: 'mpnet'; there is words, "),
    ("nowhere.py:Mine", "no such file"),
])  # fmt: skip
def test_unknown_encoder(name: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_encoder(name)


def test_an_encoder_that_is_a_folder_belongs_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_text("1")
    name = f"sentence-transformers:{tmp_path}"
    monkeypatch.setattr(_similarity, "load_encoder", lambda name: None)
    before = load("bdhs", encoder=name).inputs()
    assert before == inputs(name) == {"encoder": runs.fingerprint(tmp_path)}
    (tmp_path / "weights").write_text("2")
    assert load("bdhs", encoder=name).inputs() not in (before, {})
    monkeypatch.setattr(Index, "open", lambda folder: Index.__new__(Index))
    monkeypatch.setattr(Index, "fingerprint", lambda index: "near")
    assert load("realign", index="x", encoder=name).inputs() == {"index": "near", **inputs(name)}
    for other in ("words", "sentence-transformers:all-mpnet-base-v2", f"{tmp_path}"):
        assert inputs(other) == {}


def test_sentence_transformers_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match="pip install sentence-transformers"):
        load_encoder("sentence-transformers:all-mpnet-base-v2")
