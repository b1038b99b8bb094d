"""POPE: official files, the official rule letter by letter, hand-worked numbers, questions of our own."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from mmalign.benchmarks import pope
from mmalign.records import InputError, Prediction, Question

ROWS = [
    {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "no"},
    {"question_id": 3, "image": "b.jpg", "text": "Is there a cup in the image?", "label": "yes"},
    {"question_id": 4, "image": "b.jpg", "text": "Is there an owl in the image?", "label": "no"},
]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def random_file(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "coco_pope_random.json", ROWS)


@pytest.fixture
def asked(random_file: Path) -> list[Question]:
    return list(pope.questions(random_file))


def answered(*texts: str, split: str = "random") -> list[Prediction]:
    return [Prediction(id=f"{split}/{number}", text=text) for number, text in enumerate(texts, start=1)]


def test_reads_lines_and_arrays_alike(random_file: Path, asked: list[Question]) -> None:
    assert [q.id for q in asked] == ["random/1", "random/2", "random/3", "random/4"]
    assert asked[1].gold == "no" and asked[1].images == ("a.jpg",)
    assert [block["type"] for block in asked[0].prompt[0]["content"]] == ["image", "text"]
    random_file.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    assert list(pope.questions(random_file)) == asked


def test_a_folder_gives_the_splits_in_order_with_unique_ids(tmp_path: Path) -> None:
    for split in ("adversarial", "popular", "random"):
        write_lines(tmp_path / f"coco_pope_{split}.json", ROWS)
    (tmp_path / "objects.json").write_text("{}", encoding="utf-8")
    ids = [q.id for q in pope.questions(tmp_path)]
    assert [name.split("/")[0] for name in ids] == ["random"] * 4 + ["popular"] * 4 + ["adversarial"] * 4
    assert len(set(ids)) == 12


def test_the_short_prompt_adds_its_line_and_nothing_else(random_file: Path, asked: list[Question]) -> None:
    short = next(pope.questions(random_file, prompt="short"))
    texts = [question.prompt[0]["content"][-1]["text"] for question in (asked[0], short)]
    assert texts[0] == "Is there a dog in the image?"
    assert texts[1] == texts[0] + "\nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes, there is a dog.", "yes"),
        ("No, there is not.", "no"),
        ("No, there", "no"),
        ("There is no", "no"),
        ("no", "no"),
        ("There is not a dog", "no"),
        ("A dog. No, not a cat.", "yes"),  # only the first sentence counts
        ("No.", "no"),
        (".No", "yes"),  # an empty first sentence
        ("NO", "yes"),
        ("Not", "yes"),
        ("", "yes"),
        ("no\nthere is none", "yes"),  # only blanks part words
        ("I know, no,", "no"),
        ("none, nothing", "yes"),
    ],
)
def test_official_rule_to_the_letter(text: str, answer: str) -> None:
    assert pope.official(text) == answer


@pytest.mark.parametrize(
    ("text", "exact", "xor"),
    [
        ("yes", "yes", "yes"),
        (" No\n", "no", "no"),
        ("Yes.", None, "yes"),
        ("NO, there is none", None, "no"),
        ("yes and no", None, None),
        ("Not", None, None),
        ("", None, None),
        ("I know", None, None),
    ],
)
def test_other_rules(text: str, exact: str | None, xor: str | None) -> None:
    assert (pope.exact(text), pope.xor(text)) == (exact, xor)


def test_hand_worked_score(asked: list[Question]) -> None:
    # labels yes no yes no, read as yes yes no no: one true and one false of each
    result = pope.score(asked, answered("Yes.", "Yes", "No", "No, it is not."))
    assert result["groups"]["random"] == result["metrics"]
    assert result["metrics"] == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "yes_ratio": 0.5,
    }
    assert (result["n_items"], result["n_missing"], result["n_unparsed"]) == (4, 0, 0)
    # read as yes no yes yes: two true yes, one false one, one true no
    metrics = pope.score(asked, answered("Yes", "no", "What?", "Yes"))["metrics"]
    assert metrics == pytest.approx({"accuracy": 0.75, "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "yes_ratio": 0.75})


def test_the_headline_is_the_mean_over_splits(tmp_path: Path) -> None:
    write_lines(tmp_path / "pope_random.json", ROWS)
    write_lines(tmp_path / "pope_popular.json", ROWS[:2])
    right = answered("Yes", "No", "Yes", "No")
    wrong = answered("No", "Yes", split="popular")
    result = pope.score(pope.questions(tmp_path), right + wrong)
    assert [result["groups"][split]["accuracy"] for split in ("random", "popular")] == [1.0, 0.0]
    assert result["metrics"]["accuracy"] == 0.5  # over items it would be 4 / 6


def test_missing_and_unreadable_answers_are_wrong_and_stay_in_the_denominators(asked: list[Question]) -> None:
    result = pope.score(asked, answered("yes", "maybe"), rule="exact")
    assert (result["n_missing"], result["n_unparsed"]) == (2, 1)
    assert result["metrics"] == pytest.approx(
        {"accuracy": 0.25, "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "yes_ratio": 0.25}
    )


def test_no_predictions_at_all_give_zeros_not_a_crash(asked: list[Question]) -> None:
    result = pope.score(asked, [])
    assert set(result["metrics"].values()) == {0.0} and result["n_missing"] == 4


def test_the_official_rule_reports_what_it_read_as_yes_for_want_of_a_word(asked: list[Question]) -> None:
    assert pope.score(asked, answered("", "NO", "Yes", "no"))["n_unparsed"] == 2


@pytest.mark.parametrize(
    ("predictions", "problem"),
    [
        (answered("Yes") + answered("No"), "two predictions have one id: random/1"),
        (answered("Yes", split="popular"), "no question: popular/1"),
        (
            [Prediction(id=str(n), text="") for n in range(5)],
            "predictions for ids that are no question: 0, 1, 2 and 2 more",
        ),
    ],
)
def test_predictions_that_do_not_belong(asked: list[Question], predictions: list, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        pope.score(asked, predictions)


def test_unknown_rule_and_no_questions(asked: list[Question]) -> None:
    with pytest.raises(InputError, match="no rule 'kind' .*official, exact, xor"):
        pope.score(asked, [], rule="kind")
    with pytest.raises(InputError, match="no questions"):
        pope.score([], [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question_id": 2, "image": "a.jpg", "text": "t"}', ":2: field 'label': missing"),
        (
            '{"question_id": 2, "image": "a.jpg", "text": "t", "label": "No"}',
            ":2: field 'label': expected yes or no",
        ),
        (
            '{"question_id": 2, "image": 5, "text": "t", "label": "no"}',
            ":2: field 'image': expected a string",
        ),
        ('{"question_id": 1, "image": "a", "text": "t", "label": "no"}', ":2: field 'question_id': a second"),
        ('{"question_id": 2, "image"', ":2: not JSON"),
        ("[1]", ":2: expected an object"),
    ],
)
def test_bad_rows_are_named_by_file_line_and_field(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "pope_random.json"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        list(pope.questions(path))
    assert f"pope_random.json{problem}" in str(error.value)


def test_what_is_no_pope_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        list(pope.questions(tmp_path / "absent"))
    with pytest.raises(InputError, match="random, popular, adversarial"):
        list(pope.questions(tmp_path))
    for name in ("coco_pope_random.json", "gqa_pope_random.json"):
        write_lines(tmp_path / name, ROWS)
    with pytest.raises(InputError, match="two files for the split random"):
        list(pope.questions(tmp_path))


# --- answer files ---------------------------------------------------------------------------------


TEXTS = ["Yes", "No", "Yes", "No"]
ANSWER_FILES = {
    "ours": [{"id": f"random/{n}", "text": t} for n, t in enumerate(TEXTS, start=1)],
    "llava": [
        {"question_id": n, "prompt": ROWS[n - 1]["text"] + "\nShort.", "text": TEXTS[n - 1]} for n in (3, 1, 4, 2)
    ],
    "official": [{"question": row["text"], "answer": t} for row, t in zip(ROWS, TEXTS, strict=True)],
    "bare": [{"answer": t} for t in TEXTS],
}


@pytest.mark.parametrize("shape", ANSWER_FILES)
def test_every_shape_of_answers_gives_the_same_score(tmp_path: Path, asked: list[Question], shape: str) -> None:
    path = write_lines(tmp_path / "answers.jsonl", ANSWER_FILES[shape])
    assert pope.score(asked, pope.read_predictions(path, asked))["metrics"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (ANSWER_FILES["bare"][:3], "3 answers without ids for 4 questions"),
        (ANSWER_FILES["official"][::-1], ":1: answers 'Is there an owl"),
        ([{"question_id": 9, "text": "Yes"}], ":1: field 'question_id': no question 9"),
        (ROWS, ":1: field 'text': repeats the question"),
        ([{"text": "Yes"}], ":1: expected id and text"),
        ([{"id": "random/1", "text": "Yes"}, {"id": "random/2"}], ":2: field 'text': missing"),
        ([{"id": "random/1", "text": None}], ":1: field 'text': expected a string"),
    ],
)
def test_answers_that_do_not_fit_are_refused(tmp_path: Path, asked: list, rows: list, problem: str) -> None:
    with pytest.raises(InputError) as error:
        pope.read_predictions(write_lines(tmp_path / "answers.jsonl", rows), asked)
    assert problem in str(error.value)


def test_answers_of_several_splits_need_a_folder(tmp_path: Path) -> None:
    data, answers = tmp_path / "data", tmp_path / "answers"
    data.mkdir()
    answers.mkdir()
    for split, file in (("random", "llava"), ("popular", "bare")):
        write_lines(data / f"coco_pope_{split}.json", ROWS)
        write_lines(answers / f"coco_pope_{split}_answers.json", ANSWER_FILES[file])
    asked = list(pope.questions(data))
    assert pope.score(asked, pope.read_predictions(answers, asked))["metrics"]["accuracy"] == 1.0
    with pytest.raises(InputError, match="which split is meant"):
        pope.read_predictions(answers / "coco_pope_random_answers.json", asked)


def test_an_empty_answer_file_is_all_missing(tmp_path: Path, asked: list[Question]) -> None:
    path = write_lines(tmp_path / "answers.jsonl", [])
    assert pope.score(asked, pope.read_predictions(path, asked))["n_missing"] == 4


# --- the official files ---------------------------------------------------------------------------


def test_the_official_files(shared_data: Path) -> None:
    asked = list(pope.questions(shared_data / "pope"))
    assert len(asked) == len({q.id for q in asked}) == 9000
    assert Counter((q.meta["split"], q.gold) for q in asked) == {
        (split, gold): 1500 for split in pope.SPLITS for gold in ("yes", "no")
    }
    always_yes = [Prediction(id=q.id, text="Yes") for q in asked]
    started = time.perf_counter()
    result = pope.score(asked, always_yes)
    assert time.perf_counter() - started < 1
    assert result["metrics"] == pytest.approx(
        {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "f1": 2 / 3, "yes_ratio": 1.0}
    )


# --- questions of our own -------------------------------------------------------------------------

OBJECTS = {
    "1.png": ["dog", "cat", "dog"],
    "2.png": ["dog"],
    "3.png": [],
    "4.png": ["apple", "cat", "cup", "dog", "owl"],
    "5.png": ["apple", "owl"],
}
"""dog is in 3 pictures, apple, cat and owl in 2, cup in 1; apple and owl always come together."""


@pytest.mark.parametrize("split", pope.SPLITS)
def test_questions_are_balanced_and_true(split: str) -> None:
    rows = pope.build_questions(OBJECTS, split=split)
    for image, objects in OBJECTS.items():
        labels = {row["text"].split()[3]: row["label"] for row in rows if row["image"] == image}
        assert all((name in objects) == (label == "yes") for name, label in labels.items())
        counts = Counter(labels.values())
        assert counts["yes"] == counts["no"] == min(3, len(set(objects)), 5 - len(set(objects)))
    assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))


def test_every_split_asks_the_same_about_what_is_there() -> None:
    there = [
        [row["text"] for row in pope.build_questions(OBJECTS, split=split, per_image=2) if row["label"] == "yes"]
        for split in pope.SPLITS
    ]
    assert there[0] == there[1] == there[2]


def absent_names(split: str, **options: object) -> dict[str, str]:
    rows = pope.build_questions(OBJECTS, split=split, per_image=2, **options)
    return {row["image"]: row["text"].split()[3] for row in rows if row["label"] == "no"}


def test_popular_asks_for_the_most_frequent_and_adversarial_for_the_usual_company() -> None:
    assert absent_names("popular") == {"1.png": "apple", "2.png": "apple", "5.png": "dog"}
    # cat shares two pictures with dog; picture 5's owl and apple share one each with cat, cup and dog
    assert absent_names("adversarial") == {"1.png": "apple", "2.png": "cat", "5.png": "dog"}


def test_statistics_can_come_from_other_pictures() -> None:
    train = {
        "a": ["cup", "owl"],
        "b": ["cup", "apple"],
        "c": ["cup"],
        "d": ["dog", "fork"],
        "e": ["dog", "fork"],
    }
    assert absent_names("popular", statistics=train)["1.png"] == "cup"
    assert absent_names("adversarial", statistics=train)["1.png"] == "fork"


def test_the_seed_decides() -> None:
    many = {f"{n}.png": [f"thing{n}", f"thing{n + 1}"] for n in range(20)}
    first, again, other = (pope.build_questions(many, split="random", seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_the_article() -> None:
    assert pope.ask("owl") == "Is there an owl in the image?"
    assert pope.ask("traffic light") == "Is there a traffic light in the image?"


@pytest.mark.parametrize("options", [{"split": "hard"}, {"split": "random", "per_image": 5}])
def test_options_that_make_no_questions(options: dict) -> None:
    with pytest.raises(InputError):
        pope.build_questions(OBJECTS, **options)


def test_written_questions_read_back(tmp_path: Path) -> None:
    counts = pope.write_questions(tmp_path, OBJECTS)
    read = Counter(q.meta["split"] for q in pope.questions(tmp_path))
    assert read == counts and set(counts) == set(pope.SPLITS)
