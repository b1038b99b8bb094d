"""Records: what parses, what it becomes, and files of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from dataclasses import fields
from pathlib import Path

import pytest

from mmalign.records import (
    InputError,
    Prediction,
    Question,
    Record,
    RecordFile,
    assistant_message,
    media_path,
    read_jsonl,
    text_of,
    user_message,
    validate,
    write_jsonl,
)

SAY = [{"role": "user", "content": "What is here?"}]


def answer(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def pair(name: str = "a", **more: object) -> dict:
    return {"id": name, "prompt": SAY, "chosen": answer("a cube"), "rejected": answer("a dog"), **more}


FULL = {
    "id": "full",
    "prompt": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Now "}, {"type": "image"}, {"type": "video"}]},
    ],
    "chosen": [assistant_message("a cube")],
    "rejected": [assistant_message("a dog")],
    "responses": [
        {
            "message": assistant_message("a"),
            "scores": {"reward": 1.0},
            "rank": 0,
            "spans": [[0, 1]],
            "critique": "good",
        },
        {"message": assistant_message("b")},
    ],
    "gold": [assistant_message("one cube")],
    "images": ["a.png"],
    "videos": ["b.mp4"],
    "rejected_images": ["c.png"],
    "rejected_videos": ["d.mp4"],
    "rejected_prompt": [user_message("Then?", images=1, videos=1)],
    "chosen_spans": [[2, 6]],
    "rejected_spans": [[0, 1], [2, 5]],
    "chosen_scores": {"reward": 1.5},
    "rejected_scores": {"reward": -1.0, "judge": 0.0},
    "chosen_critique": "fine",
    "rejected_critique": "no dog",
    "difficulty": 0.5,
    "group": "g",
    "weight": 2.0,
    "strength": 0.9,
    "meta": {"seed": 1, "plan": [{"x": None}]},
}


def test_every_field_survives_the_round_trip() -> None:
    assert set(FULL) == {field.name for field in fields(Record)}
    record = Record.parse(FULL)
    assert record.to_json() == FULL
    assert Record.parse(json.loads(json.dumps(record.to_json()))) == record
    assert record.chosen_spans == ((2, 6),)
    assert record.responses[0].rank == 0
    assert record.images == ("a.png",)


def test_absent_fields_are_left_out_and_null_is_absent() -> None:
    record = Record.parse(pair(images=None, weight=None, meta={}, chosen_spans=[]))
    assert (record.images, record.gold, record.chosen_scores, record.weight) == ((), None, {}, None)
    # an empty list of spans says that the texts differ in nothing that matters: it is not an absent one
    assert set(record.to_json()) == {"id", "prompt", "chosen", "rejected", "chosen_spans"}
    assert Record.parse(record.to_json()) == record


def test_plain_strings_become_blocks_with_media_first() -> None:
    record = Record.parse(pair(images=["a.png", "b.png"], videos=["c.mp4"]))
    assert record.prompt == [user_message("What is here?", images=2, videos=1)]
    assert [block["type"] for block in record.prompt[0]["content"]] == ["image", "image", "video", "text"]
    assert record.chosen == [assistant_message("a cube")]
    assert Record.parse({**pair(images=["a.png"]), "prompt": "Hi"}).prompt == [user_message("Hi", images=1)]


def test_media_go_to_the_first_user_turn_unless_they_are_placed() -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "two"},
    ]
    placed = Record.parse({**pair(images=["a.png"]), "prompt": turns}).prompt
    assert [sum(block["type"] == "image" for block in turn["content"]) for turn in placed] == [0, 1, 0, 0]
    turns[3] = user_message("two", images=1)
    placed = Record.parse({**pair(images=["a.png"]), "prompt": turns}).prompt
    assert [sum(block["type"] == "image" for block in turn["content"]) for turn in placed] == [0, 0, 0, 1]


def test_one_side_or_a_visual_negative_is_enough() -> None:
    assert Record.parse({"id": "a", "prompt": SAY, "rejected": answer("x")}).chosen is None
    same = pair(rejected=answer("a cube"), images=["a.png"], rejected_images=["b.png"])
    assert Record.parse(same).rejected_images == ("b.png",)
    twin = pair(rejected=answer("a cube"), rejected_prompt=[{"role": "user", "content": "What is not here?"}])
    assert text_of(Record.parse(twin).rejected_prompt) == "What is not here?"


def test_parse_leaves_its_input_alone() -> None:
    given = pair(images=["a.png"])
    before = json.dumps(given)
    Record.parse(given)
    assert json.dumps(given) == before


def test_text_of_joins_blocks_without_and_messages_with_a_newline() -> None:
    blocks = [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text_of([{"role": "user", "content": blocks}, assistant_message("c")]) == "ab\nc"


def test_questions_and_predictions_survive_the_round_trip() -> None:
    question = Question.parse({"id": "q", "prompt": "Is it?", "images": ["a.png"], "gold": "yes", "meta": {"n": 1}})
    assert question.prompt == [user_message("Is it?", images=1)]
    assert Question.parse(question.to_json()) == question
    prediction = Prediction.parse({"id": "q", "text": ""})
    assert prediction.to_json() == {"id": "q", "text": ""}


def test_input_error_says_where_and_survives_pickling() -> None:
    error = InputError("no such file: a.png", file="pairs.jsonl", line=7, field="images")
    assert str(error) == "pairs.jsonl:7: field 'images': no such file: a.png"
    assert str(InputError("bad", line=7)) == "line 7: bad"
    assert str(InputError("bad")) == "bad"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.line, copy.field) == (str(error), 7, "images")


# ---- media paths


def test_media_path_stays_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.png").touch()
    (tmp_path / "outside.png").touch()
    (root / "in.png").symlink_to(root / "a.png")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "up").symlink_to(tmp_path)
    assert media_path("sub/../a.png", root) == media_path("in.png", root) == (root / "a.png").resolve()
    assert media_path("not/yet.png", root) == root.resolve() / "not" / "yet.png"
    for name in (
        "../outside.png",
        "sub/../../outside.png",
        "out.png",
        "up/outside.png",
        "loop.png",
        "sub/..",
        ".",
        "/etc/passwd",
        "C:\\a.png",
        "https://example.org/a.png",
        "a\0.png",
    ):
        with pytest.raises(InputError):
            media_path(name, root)


# ---- files


def written(path: Path, *lines: str) -> Path:
    path.write_bytes("\n".join(lines).encode())
    return path


def row(name: str) -> str:
    return json.dumps(pair(name, meta={"é": "\u2028"}), ensure_ascii=False)


def test_record_file_reads_by_index_past_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    lines = ["\ufeff" + row("a"), "", "  \r", row("b") + "\r", row("c"), "", row("d"), ""]
    path = written(tmp_path / "r.jsonl", *lines)
    rows = RecordFile(path)
    assert [record.id for record in rows] == ["a", "b", "c", "d"]
    assert [rows.line_of(i) for i in range(4)] == [1, 4, 5, 7]
    assert rows[-1] == rows[3]
    assert rows[0].meta == {"é": "\u2028"}
    assert [record.id for record in read_jsonl(path, Record.parse)] == ["a", "b", "c", "d"]
    with pytest.raises(IndexError):
        rows[4]
    assert len(RecordFile(written(tmp_path / "first_blank.jsonl", "\ufeff", row("a")))) == 1
    assert len(RecordFile(written(tmp_path / "empty.jsonl"))) == 0


def test_record_file_holds_eight_bytes_a_row(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(b'{"id": 0}\n' * 20_000)
    assert len(pickle.dumps(RecordFile(path))) < 8 * 20_000 + 2_000


def read_all(rows: RecordFile, step: int) -> None:
    order = range(len(rows))[::step]
    assert [rows[i].id for i in order] == [str(i) for i in order]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_record_file_is_safe_in_worker_processes(tmp_path: Path, method: str) -> None:
    """A forked worker inherits the open file with its position; a spawned one gets a pickled copy."""
    rows = RecordFile(written(tmp_path / "r.jsonl", *(row(str(i)) for i in range(2000))))
    assert rows[7].id == "7"  # opened before the workers start
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=read_all, args=(rows, step)) for step in (1, -1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_record_file_names_the_line_of_a_bad_record(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", row("a"), "", json.dumps(pair("b", weight=-1)), '{"id": "c",,}')
    rows = RecordFile(path)
    with pytest.raises(InputError) as caught:
        rows[1]
    assert str(caught.value) == f"{path}:3: field 'weight': must be 0 or more, got -1"
    with pytest.raises(InputError, match=r"r.jsonl:4: malformed JSON at column 12"):
        rows[2]


def test_record_file_resolves_media_under_its_root(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", json.dumps(pair(images=["x/a.png"])))
    assert RecordFile(path).media(RecordFile(path)[0]) == (tmp_path.resolve() / "x" / "a.png",)
    elsewhere = RecordFile(path, tmp_path / "media")
    assert elsewhere.media(elsewhere[0]) == (tmp_path.resolve() / "media" / "x" / "a.png",)
    (tmp_path / "x").symlink_to("/etc")
    with pytest.raises(InputError, match=r"r.jsonl: field 'images': leaves the media root"):
        RecordFile(path).media(RecordFile(path)[0])


def test_write_jsonl_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    write_jsonl(path, [Record.parse(pair("é")), {"id": "\u2028"}])
    assert path.read_bytes().count(b"\n") == 2
    assert "é".encode() in path.read_bytes()
    assert [obj["id"] for obj in read_jsonl(path, lambda obj, **place: obj)] == ["é", "\u2028"]
    before = path.read_bytes()

    def breaks() -> object:
        yield {"id": "x"}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_jsonl(path, breaks())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["out.jsonl"]


def test_validate_goes_on_after_a_bad_line_and_opens_each_image_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "v.mp4").touch()
    (tmp_path / "bad.png").touch()
    rows = [
        pair("one", images=["a.png"]),
        pair("two", images=["a.png"]),
        {},
        pair("one", images=["gone.png"]),
        pair("four", weight="1"),
        pair("five", videos=["v.mp4"]),
        pair("six", videos=["w.mp4"]),
        pair("seven", images=["./a.png"], rejected_images=["bad.png"]),
        pair("four", images=["gone.png"]),
    ]
    path = written(tmp_path / "r.jsonl", *map(json.dumps, rows))
    opened = []

    def open_media(file: Path) -> None:
        opened.append(file.name)
        if file.name == "bad.png":
            raise InputError("cut short")

    problems = list(validate(path, open_media=open_media))
    assert [(problem.line, problem.field, problem.problem) for problem in problems] == [
        (3, "id", "is missing"),
        (4, "id", "'one' is that of line 1 too: make ids unique"),
        (4, "images", "no such file: gone.png"),
        (5, "weight", "expected a number, got a string"),
        (7, "videos", "no such file: w.mp4"),
        (8, "rejected_images", "cut short"),
        (9, "id", "'four' is that of line 5 too: make ids unique"),
        (9, "images", "no such file: gone.png"),
    ]
    assert opened == ["a.png", "bad.png"]
    assert [problem.line for problem in validate(path)] == [3, 4, 5, 9]  # no media touched
    assert all(problem.file == path for problem in validate(path))


def test_validate_reports_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    assert [str(problem) for problem in validate(tmp_path / "gone.jsonl")] == [
        f"{tmp_path / 'gone.jsonl'}: cannot be read: No such file or directory"
    ]
    [problem] = validate(written(tmp_path / "e.jsonl", "", ""))
    assert problem.problem == "holds no record"
