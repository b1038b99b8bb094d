"""What builders read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.builders import sources
from mmalign.records import InputError, Record, assistant_message, user_message

PROMPT = [user_message("What is here?", images=1)]
CHOSEN = [assistant_message("A cat.")]


def write(folder: Path, *rows: object) -> Path:
    path = folder / "sources.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_records_prompts_and_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"id": "a", "prompt": "What is here?", "images": ["a.png"], "chosen": CHOSEN, "weight": 2},
        {"id": "b", "prompt": "What is here?", "images": ["a.png"], "meta": {"x": 1}},
        "",
        {"image": "in/a.png", "question": "What is here?"},
        {"image": "in/a.png", "question": "What is here?", "answer": "A cat.", "id": "d"},
        {"video": "in/a.mp4#t=1.5,2.5"},
        {"video": "a.mp4", "question": "What happens?", "answer": "A cat.", "id": "f", "image": None},
    )
    assert list(sources(path)) == [
        Record("a", PROMPT, CHOSEN, images=("a.png",), weight=2.0),
        Record("b", PROMPT, images=("a.png",), meta={"x": 1}),
        Record("a-4", PROMPT, images=("in/a.png",)),
        Record("d", PROMPT, CHOSEN, images=("in/a.png",)),
        Record("a-6", [user_message("Describe the video in detail.", videos=1)], videos=("in/a.mp4#t=1.5,2.5",)),
        Record("f", [user_message("What happens?", videos=1)], CHOSEN, videos=("a.mp4",)),
    ]


@pytest.mark.parametrize("row, field, problem", [
    ({"image": "a.png"}, "question", "is missing"),
    ({"question": "What?"}, "image", "is missing"),
    ({"image": "../../etc/passwd", "question": "What?"}, "image", "leaves the media root"),
    ({"image": ["a.png"], "question": "What?"}, "image", "expected a string, got a list"),
    ({"image": "a.png", "question": " "}, "question", "is empty"),
    ({"image": "a.png", "question": "What?", "anwser": "A cat."}, "anwser", "did you mean 'answer'"),
    ({"video": "../a.mp4"}, "video", "leaves the media root"),
    ({"video": "a.mp4", "image": "a.png", "question": "What?"}, "image", "both given"),
    ({"id": "a", "images": ["a.png"]}, "prompt", "is missing"),
    ({"id": "a", "prompt": PROMPT, "images": []}, "images", "1 image placeholder"),
    ("[1]", None, "expected a JSON object"),
    ("{", None, "malformed JSON"),
])  # fmt: skip
def test_bad_row(row: object, field: str | None, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"image": "a.png", "question": "What?"}, row)
    with pytest.raises(InputError, match=problem) as caught:
        sources(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (path, 2, field)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no record"):
        sources(write(tmp_path))


def test_photographs(shared_data: Path) -> None:
    found = sources(shared_data / "photos" / "questions.jsonl")
    assert len(found) == 60 and len({record.id for record in found}) == 60
    assert all(record.chosen is None and len(record.images) == 1 for record in found)
