"""CHAIR: mentions with their places, hand-worked numbers, maps and synonyms that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.benchmarks import chair
from mmalign.benchmarks._words import singular
from mmalign.records import InputError, Prediction, Question

OBJECTS = {
    "a.png": ["dog", "traffic light"],
    "b.png": ["hot dog", "bus"],
    "c.png": ["person"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "objects.json"
    path.write_text(json.dumps(OBJECTS), encoding="utf-8")
    return path


@pytest.fixture
def asked(data: Path) -> list[Question]:
    return list(chair.questions(data))


def found(text: str, *names: str) -> list[tuple[str, str]]:
    """The words that a mention covers, and its object."""
    return [(text[start:end], name) for start, end, name in chair.mentions(text, chair.vocabulary(names))]


@pytest.mark.parametrize(
    ("plural", "word"),
    [
        ("dogs", "dog"),
        ("buses", "bus"),
        ("glasses", "glass"),
        ("benches", "bench"),
        ("boxes", "box"),
        ("horses", "horse"),
        ("vases", "vase"),
        ("berries", "berry"),
        ("knives", "knife"),
        ("women", "woman"),
        ("snowmen", "snowman"),
        ("people", "person"),
        ("potatoes", "potato"),
        ("shoes", "shoe"),
        ("ties", "tie"),
    ],
)
def test_plural_and_singular_meet(plural: str, word: str) -> None:
    assert singular(plural) == word == singular(word)


@pytest.mark.parametrize("word", ["bus", "glass", "tennis", "gas", "omen", "is", "grass"])
def test_a_word_that_is_no_plural_stays(word: str) -> None:
    assert singular(word) == word


def test_mentions_say_where_they_are() -> None:
    text = "Two Blue  squares, a blue-square\nand a red circle."
    vocabulary = chair.vocabulary(["blue square", "red circle"])
    assert chair.mentions(text, vocabulary) == [
        (4, 17, "blue square"),
        (21, 32, "blue square"),
        (39, 49, "red circle"),
    ]


def test_the_longest_name_counts_from_left_to_right() -> None:
    assert found("A hot dog and a dog.", "dog", "hot dog") == [("hot dog", "hot dog"), ("dog", "dog")]
    assert found("a stop sign post", "stop sign", "sign post", "post") == [
        ("stop sign", "stop sign"),
        ("post", "post"),
    ]
    assert found("hot dog stand", "hot dog stand", "dog") == [("hot dog stand", "hot dog stand")]


def test_punctuation_parts_names_and_parts_of_words_are_none() -> None:
    assert found("It is hot. Dog. A hotdog, dogma", "hot dog", "dog") == [("Dog", "dog")]
    assert found("the dog's bowl", "dog", "bowl") == [("dog", "dog"), ("bowl", "bowl")]
    assert found("Ünïcode chairs 😀 chair", "chair") == [("chairs", "chair"), ("chair", "chair")]
    assert found("", "dog") == [] and found("a dog") == []


def test_hand_worked_score(asked: list[Question]) -> None:
    captions = {
        "a.png": "A dog and two dogs by a bus.",  # dog, dog true; bus false
        "b.png": "A dog in a bus, and a person.",  # bus true; dog, person false
        "c.png": "Nothing.",
    }
    result = chair.score(asked, [Prediction(id=i, text=t) for i, t in captions.items()])
    assert result["metrics"] == pytest.approx(
        {
            "chair_i": 3 / 6,
            "chair_s": 2 / 3,
            "recall": 2 / 5,  # dog of two in a, bus of two in b, none of one in c
            "words": (8 + 8 + 1) / 3,
            "mentions": 6 / 3,
        }
    )
    assert (result["rule"], result["n_items"], result["n_missing"], result["n_unparsed"]) == ("map", 3, 0, 1)


def test_hallucinated_words_can_be_marked(asked: list[Question]) -> None:
    text = "A dog by a bus."
    assert chair.hallucinated(asked[0], text) == [(11, 14, "bus")]


def test_a_missing_caption_counts_for_recall_alone(asked: list[Question]) -> None:
    result = chair.score(asked, [Prediction(id="a.png", text="A dog by a bus.")])
    assert (result["n_items"], result["n_missing"]) == (3, 2)
    assert result["metrics"]["chair_i"] == 0.5 and result["metrics"]["chair_s"] == 1.0
    assert result["metrics"]["recall"] == pytest.approx(1 / 5)


def test_silence_is_zeros_and_is_seen(asked: list[Question]) -> None:
    result = chair.score(asked, [Prediction(id=q.id, text="") for q in asked])
    assert set(result["metrics"].values()) == {0.0} and result["n_unparsed"] == 3
    assert chair.score(asked, [])["n_missing"] == 3


def test_double_and_unknown_ids_and_rules(asked: list[Question]) -> None:
    twice = [Prediction(id="a.png", text="")] * 2
    with pytest.raises(InputError, match="two predictions have one id: a.png"):
        chair.score(asked, twice)
    with pytest.raises(InputError, match="no question: z.png"):
        chair.score(asked, [Prediction(id="z.png", text="")])
    with pytest.raises(InputError, match="no rule 'official'"):
        chair.score(asked, [], rule="official")


def test_synonyms_stand_for_their_object(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("dog,  puppy , dog, small hound\nperson, man \n\ncat\n", encoding="utf-8")
    asked = list(chair.questions(data, synonyms=path))
    vocabulary = asked[0].meta["vocabulary"]
    text = "Puppies, small hounds, men and a cat."
    assert [name for *_, name in chair.mentions(text, vocabulary)] == ["dog", "dog", "person", "cat"]
    metrics = chair.score(asked[:1], [Prediction(id="a.png", text=text)])["metrics"]
    assert metrics["chair_i"] == 0.5 and metrics["recall"] == 0.5


def test_an_object_named_by_a_synonym_in_the_map_is_the_same_object(tmp_path: Path) -> None:
    (tmp_path / "objects.json").write_text('{"a.png": ["puppy", "dogs"]}', encoding="utf-8")
    (tmp_path / "synonyms.txt").write_text("dog, puppy", encoding="utf-8")
    [question] = chair.questions(tmp_path, synonyms=tmp_path / "synonyms.txt")
    assert question.meta["objects"] == ["dog"]


def test_a_word_of_two_objects_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("car, bike\nbicycle, bike", encoding="utf-8")
    with pytest.raises(InputError, match="'bike' is a synonym of both 'car' and 'bicycle'"):
        list(chair.questions(data, synonyms=path))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "expected one JSON object"),
        ('{"a.png": "dog"}', "field 'a.png': expected a list of object names"),
        ('{"a.png": ["dog", 3]}', "field 'a.png'"),
        ('{"a.png": [" "]}', "field 'a.png'"),
        ('{"a.png": ["!"]}', "no object name"),
        ('{"a.png": [', "objects.json:1: not JSON"),
    ],
)
def test_maps_that_are_wrong(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "objects.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        list(chair.questions(tmp_path))
    assert problem in str(error.value)


def test_the_common_caption_file_is_read(tmp_path: Path, asked: list[Question]) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image_id": "a.png", "caption": "A dog."}\n', encoding="utf-8")
    assert chair.read_predictions(path, asked) == [Prediction(id="a.png", text="A dog.")]


def test_questions_ask_with_the_picture_first(data: Path) -> None:
    question = next(chair.questions(data, prompt="What is here?"))
    assert question.prompt[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    assert question.id == "a.png" and question.images == ("a.png",)
