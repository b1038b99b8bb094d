"""RRPO's lists: tags become character spans of the plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign.interop.formats import Unfit
from mmalign.interop.formats.rrpo import tagged
from mmalign.records import Record, text_of, user_message
from tests.interop.reading import convert_rows, says

CLIP = [user_message("What?", videos=1)]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in ("a/b.mp4", "b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"a clip")
    return tmp_path


def row(**others: object) -> dict:
    return {
        "sample_id": 7, "question": "<image>\nWhat?", "src": "K400", "media_path": "a/b.mp4", "video": "b.mp4",
        "answer": "This is a correct or preferred answer.",
        "answer_masked": "This is a <MASK> correct </MASK> or <MASK> preferred </MASK> answer.",
        "pred": "This is a wrong answer.", "pred_masked": "This is a <MASK> wrong </MASK> answer.", **others,
    }  # fmt: skip


def marked(record: Record, side: str) -> list[str]:
    return [text_of(getattr(record, side))[start:end] for start, end in getattr(record, f"{side}_spans")]


def test_tags_become_spans(clips: Path) -> None:
    records, drops = convert_rows(clips / "data.json", [row(), row(sample_id=8, media_path=None)], "rrpo")
    assert records[0] == Record(
        "7", CLIP, says("This is a correct or preferred answer."), says("This is a wrong answer."),
        videos=("a/b.mp4",), chosen_spans=((10, 17), (21, 30)), rejected_spans=((10, 15),), meta={"src": "K400"},
    )  # fmt: skip
    assert marked(records[0], "chosen") == ["correct", "preferred"]
    assert (records[1].id, records[1].videos) == ("8", ("b.mp4",)) and not drops


@pytest.mark.parametrize(
    ("plain", "masked", "spans"),
    [
        ("A dog.", "<MASK> A dog. </MASK>", ["A dog."]),
        ("A  dog\nruns.", "A <MASK> dog </MASK> runs.", ["dog"]),
        ("A dog\n runs.", "A <MASK> dog runs </MASK> .", ["dog\n runs"]),
        ("(D) It's unhappy.", "<MASK> (D) </MASK> It's un<MASK>happy</MASK>.", ["(D)", "happy"]),
        ("Café, 猫。", "Café, <MASK> 猫 </MASK>。", ["猫"]),
        (" a b ", "<MASK> a </MASK><MASK> b </MASK>", ["a", "b"]),
        ("a", "a <MASK> </MASK>", []),
        ("a b", "a b", []),
    ],
)
def test_spans_count_in_the_plain_text(plain: str, masked: str, spans: list[str]) -> None:
    assert [plain[start:end] for start, end in tagged(plain, masked)] == spans


@pytest.mark.parametrize(
    ("masked", "reason"),
    [
        ("a <MASK> c </MASK>", "mismatch"),
        ("a <MASK> b </MASK> c", "mismatch"),
        ("A <MASK> b </MASK>", "mismatch"),
        ("a <MASK> b", "tags"),
        ("a b </MASK>", "tags"),
        ("<MASK> a <MASK> b </MASK> </MASK>", "tags"),
        (None, "tags"),
    ],
)
def test_tagged_texts_that_do_not_fit(masked: str | None, reason: str) -> None:
    with pytest.raises(Unfit) as error:
        tagged("a b", masked)
    assert error.value.reason == reason


def test_a_tag_in_one_answer_is_enough_and_none_is_not(clips: Path) -> None:
    plain = {"pred_masked": "This is a wrong answer."}
    rows = [row(**plain), row(**plain, answer_masked=row()["answer"])]
    [record], drops = convert_rows(clips / "a.json", rows, "rrpo")
    assert (len(record.chosen_spans), record.rejected_spans) == (2, ()) and drops == {"a.json:2": "no_span"}


def test_without_tags_spans_are_the_words_that_differ(clips: Path) -> None:
    [record], _ = convert_rows(clips / "a.jsonl", [row(answer_masked=None, pred_masked=None)], "rrpo")
    assert marked(record, "chosen") == ["correct or preferred"] and marked(record, "rejected") == ["wrong"]


def qa(question: str, answer: str, **others: object) -> dict:
    return {"i": "Look.", "q": question, "a": answer, **others}


def test_videochat2_rows_have_a_record_for_each_question(clips: Path) -> None:
    good = [qa("What?", "A dog runs."), qa("Who?", "A man."), qa("Where?", "Here.")]
    bad = [qa("What?", "A dog runs fast."), qa("Who?", "A man."), qa("When?", "There.")]
    rows = [{"video": "b.mp4", "sample_id": 3, "QA": good, "QA_NEG": bad, "start": None}]
    [record], drops = convert_rows(clips / "a.json", rows, "rrpo")
    assert record.prompt == [user_message("Look.\nWhat?", videos=1)]
    assert (record.id, record.chosen_spans) == ("3", ((6, 11),)) and marked(record, "rejected") == ["runs fast."]
    assert drops == {"a.json:1.2": "equal", "a.json:1.3": "no_answer"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start": 1.5, "end": 4}, "part_of_clip"),
        ({"QA_NEG": None}, "no_answer"),
        ({"QA_NEG": [qa("What?", "A  dog.")]}, "no_span"),
        ({"QA": [], "QA_NEG": []}, None),
        ({"QA": "What?"}, "invalid"),
        ({"video": None}, "no_media"),
        ({"video": "gone.mp4"}, "missing"),
        ({"video": "https://a/b.mp4"}, "url"),
    ],
)
def test_bad_videochat2_rows(clips: Path, change: dict, reason: str | None) -> None:
    good = {"video": "b.mp4", "QA": [qa("What?", "A dog.")], "QA_NEG": [qa("What?", "A cat.")]}
    records, drops = convert_rows(clips / "a.json", [good, {**good, **change}], "rrpo")
    assert len(records) == 1 and list(drops.values()) == [reason] * bool(reason)
