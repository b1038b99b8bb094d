"""RRPO's lists: tags become character spans of the plain text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mmalign.interop import convert
from mmalign.interop.formats import Unfit
from mmalign.interop.formats.rrpo import part, tagged
from mmalign.media import Part
from mmalign.records import InputError, Record, read_jsonl, text_of, user_message
from tests.interop.reading import convert_rows, put_pictures, put_rows, says

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
        ({"start": 4, "end": 4}, "part_of_clip"),
        ({"start": -1}, "part_of_clip"),
        ({"end": 0}, "part_of_clip"),
        ({"start": "1:30"}, "part_of_clip"),
        ({"start": True, "end": 2}, "part_of_clip"),
        ({"QA_NEG": None}, "no_answer"),
        ({"QA_NEG": [qa("What?", "A  dog.")]}, "no_span"),
        ({"QA": [], "QA_NEG": []}, "no_prompt"),
        ({"QA": []}, "no_prompt"),
        ({"QA": None}, "no_prompt"),
        ({"QA": [None], "question": "What?", "answer": "A dog.", "pred": "A cat."}, "no_answer"),
        ({"QA": qa("What?", "A dog."), "QA_NEG": None}, "no_answer"),
        ({"QA": "What?"}, "invalid"),
        ({"video": None}, "no_media"),
        ({"video": "gone.mp4"}, "missing"),
        ({"video": "https://a/b.mp4"}, "url"),
    ],
)
def test_bad_videochat2_rows(clips: Path, change: dict, reason: str) -> None:
    good = {"video": "b.mp4", "QA": [qa("What?", "A dog.")], "QA_NEG": [qa("What?", "A cat.")]}
    records, drops = convert_rows(clips / "a.json", [good, {**good, **change}], "rrpo")
    assert len(records) == 1 and list(drops.values()) == [reason]


def test_rows_may_lack_columns_or_have_those_of_both_lists(clips: Path) -> None:
    one = {"video": "b.mp4", "QA": qa("What?", "A dog.")}
    records, drops = convert_rows(clips / "a.json", [one, {**one, "QA_NEG": qa("What?", "A cat.")}], "rrpo")
    assert [marked(each, "rejected") for each in records] == [["cat."]] and drops == {"a.json:1": "no_answer"}
    empty = [{"QA": None, "QA_NEG": None}, {"QA": [], "QA_NEG": []}]
    records, drops = convert_rows(clips / "b.json", [row(**none) for none in empty], "rrpo")
    assert [marked(each, "rejected") for each in records] == [["wrong"], ["wrong"]] and not drops


@pytest.mark.parametrize(
    ("start", "end", "name"),
    [
        (1.5, 4, "b.mp4#t=1.5,4"),
        (0, 20.25, "b.mp4#t=0,20.25"),
        (12, None, "b.mp4#t=12"),
        (None, 3.0, "b.mp4#t=0,3"),
        (1e-5, 1234567.5, "b.mp4#t=0.00001,1234567.5"),
        (None, None, "b.mp4"),
    ],
)
def test_a_part_of_a_clip_is_named(clips: Path, start: float | None, end: float | None, name: str) -> None:
    """In either list."""
    good = {
        "video": "b.mp4",
        "QA": [qa("What?", "A dog.")],
        "QA_NEG": [qa("What?", "A cat.")],
        "start": start,
        "end": end,
    }
    tags = row(media_path="b.mp4", start=start, end=end)
    records, drops = convert_rows(clips / "a.json", [good, tags], "rrpo")
    assert [record.videos for record in records] == [(name,), (name,)] and not drops
    named = Part.of(name)
    assert (named.start, named.end) == (start or 0, end)


@pytest.mark.parametrize(
    ("start", "end"),
    [(math.nan, 1), (0, math.inf), (math.inf, None), (2, 1), (1, 1 + 1e-9), (0, 10**400), (None, math.nan)],
)
def test_parts_that_are_none(start: float, end: float | None) -> None:
    with pytest.raises(Unfit, match="expected seconds") as error:
        part(start, end)
    assert error.value.reason == "part_of_clip"


def test_a_name_that_says_a_part_has_no_other(clips: Path) -> None:
    rows = [
        row(media_path="b.mp4#t=1,2"),
        row(media_path="b.mp4#t=1,2", start=1, end=2),
        row(end=2, media_path="b.mp4#order=0:1"),
    ]
    [record], drops = convert_rows(clips / "a.json", rows, "rrpo")
    assert record.videos == ("b.mp4#t=1,2",) and drops == {"a.json:2": "part_of_clip", "a.json:3": "part_of_clip"}


def test_two_parts_of_one_file_keep_their_names(clips: Path) -> None:
    rows = [row(media_path="b.mp4", start=start, end=start + 1) for start in (0, 1)]
    records, _ = convert_rows(clips / "a.json", rows, "rrpo")
    assert [record.videos for record in records] == [("b.mp4#t=0,1",), ("b.mp4#t=1,2",)]


def test_a_clip_may_be_a_folder_of_frames(clips: Path) -> None:
    put_pictures(clips, "frames/1.png", "frames/2.png")
    [record], _ = convert_rows(clips / "a.json", [row(media_path="frames", start=1)], "rrpo")
    assert record.videos == ("frames#t=1",)


@pytest.mark.parametrize("target", ["llama_factory", "ms_swift"])
def test_a_folder_of_frames_is_not_written_as_a_file(clips: Path, target: str) -> None:
    put_pictures(clips, "frames/1.png")
    put_rows(clips / "a.json", [row(media_path="b.mp4"), row(media_path="frames")])
    convert.read(clips / "a.json", "rrpo", clips / "pairs.jsonl", progress=False)
    summary = convert.write(clips / "pairs.jsonl", target, clips / "out.jsonl", drop_extras=True, progress=False)
    assert (summary.kept, dict(summary.drops)) == (1, {"folder": 1})
    [drop] = read_jsonl(convert.drop_list(clips / "out.jsonl"), lambda obj, **_: obj)
    assert "is a folder, where the format has files alone" in drop["detail"]


@pytest.mark.parametrize("target", ["llama_factory", "ms_swift", "trl"])
def test_a_part_of_a_clip_is_not_written_as_the_whole(clips: Path, target: str) -> None:
    """The other record is; TRL takes no clip at all."""
    rows = [row(media_path="b.mp4"), row(sample_id=8, media_path="b.mp4", start=1)]
    put_rows(clips / "a.json", rows)
    convert.read(clips / "a.json", "rrpo", clips / "pairs.jsonl", progress=False)
    output = clips / ("out.parquet" if target == "trl" else "out.jsonl")
    with pytest.raises(InputError, match="cannot carry"):
        convert.write(clips / "pairs.jsonl", target, output, progress=False)
    if target == "trl":
        with pytest.raises(InputError, match="nothing in it can be used.*the format has pictures alone"):
            convert.write(clips / "pairs.jsonl", target, output, drop_extras=True, progress=False)
        return
    summary = convert.write(clips / "pairs.jsonl", target, output, drop_extras=True, progress=False)
    assert (summary.kept, dict(summary.drops)) == (1, {"part_of_clip": 1})
    assert "b.mp4" in output.read_text() and "#t" not in output.read_text()
    [drop] = read_jsonl(convert.drop_list(output), lambda obj, **_: obj)
    assert drop["source"] == "pairs.jsonl:2" and "b.mp4#t=1" in drop["detail"]
