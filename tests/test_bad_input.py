"""What people's files really hold: each mistake gets one clear line with file, line and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.media import open_image
from mmalign.records import InputError, Prediction, Question, Record, RecordFile, read_jsonl, validate

BAD_LINE = 7


def message(text: object, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


def pair(**changes: object) -> dict:
    """A good record with one image, changed; ``...`` takes a field away."""
    record = {
        "id": "bad",
        "prompt": message("What is here?", "user"),
        "images": ["good.png"],
        "chosen": message("a red cube"),
        "rejected": message("a dog"),
        **changes,
    }
    return {name: value for name, value in record.items() if value is not ...}


def blocks(*kinds: str) -> list[dict]:
    content = [{"type": kind} for kind in kinds] + [{"type": "text", "text": "What?"}]
    return message(content, "user")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A media root with a good picture and with bad ones."""
    root = tmp_path_factory.mktemp("bad") / "media"
    root.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    for suffix in ("png", "jpg"):
        noise.save(root / f"good.{suffix}")
        content = (root / f"good.{suffix}").read_bytes()
        (root / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (30_000, 4)).save(root / "wide.png")
    (root / "empty.png").touch()
    (root / "page.jpg").write_text("<html>404</html>")
    (root / "folder.png").mkdir()
    (root.parent / "secret.png").write_bytes((root / "good.png").read_bytes())
    (root / "link.png").symlink_to(root.parent / "secret.png")
    return root


def problems_of(line: str | bytes, root: Path, tmp_path: Path) -> list[InputError]:
    """What ``validate`` finds in a file whose line 7 is ``line``, and whose other lines are good."""
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps(pair(id=f"good{i}")).encode() for i in range(10)]
    lines[BAD_LINE - 1] = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    return list(validate(path, root, open_image))


LINES = {
    "malformed": ('{"id": "bad", "prompt": [}', None, "malformed JSON at column 26"),
    "cut short": (json.dumps(pair())[:50], None, "malformed JSON at column"),
    "two objects": ('{"id": "a"} {"id": "b"}', None, "malformed JSON at column 13: Extra data"),
    "latin-1": ('{"id": "caf\xe9"}'.encode("latin-1"), None, "not UTF-8 at byte 12"),
    "utf-16": (json.dumps(pair()).encode("utf-16"), None, "not UTF-8 at byte 1"),
    "nested deeply": ("[" * 100_000, None, "nested too deeply"),
    "huge integer": ('{"id": ' + "9" * 5000 + "}", None, "malformed JSON"),
    "key twice": ('{"id": "a", "id": "b"}', "id", "given twice"),
    "a list": ("[1, 2]", None, "expected a JSON object, got a list"),
    "NaN weight": (json.dumps(pair(weight=float("nan"))), "weight", "must be a finite number, got nan"),
    "1e999": (json.dumps(pair()).replace('"bad"', '"bad", "difficulty": 1e999'), "difficulty", "finite"),
}


@pytest.mark.parametrize("name", LINES)
def test_bad_line(name: str, media: Path, tmp_path: Path) -> None:
    line, field, problem = LINES[name]
    check_only_problem(problems_of(line, media, tmp_path), field, problem, tmp_path)


def check_only_problem(found: list[InputError], field: str | None, problem: str, folder: Path) -> None:
    assert len(found) == 1, found
    text = str(found[0])
    place = f"{folder / 'pairs.jsonl'}:{BAD_LINE}: "
    assert text.startswith(f"{place}field '{field}': " if field else place)
    assert problem in text
    assert "\n" not in text


RECORDS = {
    # which fields
    "no id": (pair(id=...), "id", "is missing"),
    "id is a number": (pair(id=7), "id", "expected a string, got a number"),
    "empty id": (pair(id=" "), "id", "is empty"),
    "id used before": (pair(id="good2"), "id", "'good2' is that of line 3 too"),
    "no prompt": (pair(prompt=...), "prompt", "is missing"),
    "unknown field": (pair(chosenn=message("x")), "chosenn", "unknown field; did you mean 'chosen'?"),
    "field of elsewhere": (pair(image_path="a.png"), "image_path", "unknown field; did you mean"),
    "nothing to learn": (pair(chosen=..., rejected=...), "chosen", "at least one of chosen"),
    "media only": (pair(chosen=..., rejected=..., rejected_images=["good.jpg"]), "chosen", "at least one of"),
    # messages
    "prompt is an object": (pair(prompt={"role": "user"}), "prompt", "a list of messages, got an object"),
    "empty prompt": (pair(prompt=[]), "prompt", "must end in a user turn"),
    "answer in the prompt": (pair(prompt=blocks() + message("yes")), "prompt", "must end in a user turn"),
    "unknown role": (pair(prompt=message("hi", "human")), "prompt[0].role", "expected one of system, user"),
    "key of elsewhere": (pair(prompt=[{"from": "user", "value": "x"}]), "prompt[0].from", "unknown field"),
    "content is missing": (pair(prompt=[{"role": "user"}]), "prompt[0].content", "a string or a list"),
    "unknown block": (pair(prompt=blocks("image_url")), "prompt[0].content[0].type", "got 'image_url'"),
    "path in the block": (
        pair(prompt=message([{"type": "image", "path": "a.png"}], "user")),
        "prompt[0].content[0].path",
        "paths belong in the record's images",
    ),
    "text is missing": (pair(prompt=message([{"type": "text"}], "user")), "prompt[0].content[0].text", "got null"),
    "half a character": (pair(prompt=message("\ud800", "user")), "prompt[0].content", "surrogate"),
    "chosen is a string": (pair(chosen="a cube"), "chosen", "expected a list of one assistant message"),
    "empty chosen": (pair(chosen=message("")), "chosen[0].content", "is empty"),
    "blank chosen": (pair(chosen=message(" \n")), "chosen[0].content", "is empty"),
    "chosen is an empty list": (pair(chosen=[]), "chosen", "got 0"),
    "two chosen": (pair(chosen=message("a") * 2), "chosen", "got 2"),
    "user chosen": (pair(chosen=message("a", "user")), "chosen[0].role", "expected an assistant message"),
    "picture chosen": (pair(chosen=message([{"type": "image"}])), "chosen[0].content", "only hold text"),
    "empty gold": (pair(gold=message("")), "gold[0].content", "is empty"),
    "chosen equal to rejected": (pair(rejected=message("a red cube")), "rejected", "is equal to chosen"),
    "equal, on the same picture": (
        pair(rejected=message("a red cube"), rejected_images=["good.png"]),
        "rejected",
        "is equal to chosen",
    ),
    "one response": (pair(responses=[{"message": message("a")[0]}]), "responses", "two or more, got 1"),
    "response without message": (pair(responses=[{}, {}]), "responses[0].message", "is missing"),
    "response is no object": (pair(responses=["a", "b"]), "responses[0]", "a JSON object, got a string"),
    "response score is text": (
        pair(responses=[{"message": message("a")[0], "scores": {"r": "1"}}] * 2),
        "responses[0].scores.r",
        "expected a number",
    ),
    "rank is a fraction": (
        pair(responses=[{"message": message("a")[0], "rank": 0.5}] * 2),
        "responses[0].rank",
        "expected an integer",
    ),
    # media
    "images is a string": (pair(images="good.png"), "images", "expected a list of paths, got a string"),
    "image is null": (pair(images=[None]), "images[0]", "expected a string, got null"),
    "empty name": (pair(images=[""]), "images[0]", "is empty"),
    "two placeholders, one image": (
        pair(prompt=blocks("image", "image")),
        "images",
        "1 path(s), but prompt has 2 image placeholder(s)",
    ),
    "video placeholder": (pair(prompt=blocks("image", "video")), "videos", "0 path(s), but prompt has 1"),
    "two rejected images": (pair(rejected_images=["a.png", "b.png"]), "rejected_images", "2 path(s), but"),
    "placeholders of the twin": (
        pair(prompt=blocks("image"), rejected_prompt=blocks("image", "image")),
        "images",
        "but rejected_prompt has 2",
    ),
    "etc/passwd": (pair(images=["../../etc/passwd"]), "images[0]", "leaves the media root"),
    "absolute": (pair(images=["/etc/passwd"]), "images[0]", "is absolute"),
    "drive": (pair(images=["C:\\good.png"]), "images[0]", "is absolute"),
    "url": (pair(images=["http://example.org/a.png"]), "images[0]", "is a URL"),
    "zero byte": (pair(images=["a\0.png"]), "images[0]", "zero byte"),
    "link that leads out": (pair(images=["link.png"]), "images", "leaves the media root"),
    "missing image": (pair(images=["gone.png"]), "images", "no such file: gone.png"),
    "truncated JPEG": (pair(images=["cut.jpg"]), "images", "cut short"),
    "truncated PNG": (pair(images=["cut.png"]), "images", "cut short"),
    "30,000 pixels wide": (pair(images=["wide.png"]), "images", "too large, 30000 x 4 pixels"),
    "zero bytes": (pair(images=["empty.png"]), "images", "0 bytes"),
    "web page": (pair(images=["page.jpg"]), "images", "not a picture"),
    "folder": (pair(images=["folder.png"]), "images", "is a folder: folder.png"),
    "name without end": (pair(images=["x" * 5000]), "images", "cannot be read: File name too long"),
    "missing rejected image": (pair(rejected_images=["gone.png"]), "rejected_images", "no such file"),
    "missing video": (pair(images=..., videos=["gone.mp4"]), "videos", "no such file: gone.mp4"),
    # numbers and spans
    "weight is text": (pair(weight="1"), "weight", "expected a number, got a string"),
    "weight is true": (pair(weight=True), "weight", "expected a number, got a boolean"),
    "negative weight": (pair(weight=-0.5), "weight", "must be 0 or more"),
    "infinite weight": (pair(weight=float("inf")), "weight", "finite"),
    "integer beyond floats": (pair(weight=10**400), "weight", "finite"),
    "strength over 1": (pair(strength=1.01), "strength", "from 0 to 1"),
    "difficulty is text": (pair(difficulty="hard"), "difficulty", "expected a number"),
    "bare margin": (pair(chosen_scores=1.5), "chosen_scores", "expected an object of numbers"),
    "NaN score": (pair(chosen_scores={"reward": float("nan")}), "chosen_scores.reward", "finite"),
    "score of nothing": (pair(rejected=..., rejected_scores={"r": 1}), "rejected_scores", "has no rejected"),
    "critique of nothing": (pair(chosen=..., chosen_critique="x"), "chosen_critique", "has no chosen"),
    "NaN in meta": (
        pair(meta={"builder": {"similarity": [0.5, float("nan")]}}),
        "meta.builder.similarity[1]",
        "finite",
    ),
    "meta is a list": (pair(meta=[]), "meta", "expected an object"),
    "group is a number": (pair(group=3), "group", "expected a string"),
    "span after the text": (pair(chosen_spans=[[2, 11]]), "chosen_spans", "after the text, which has 10"),
    "span is empty": (pair(chosen_spans=[[2, 2]]), "chosen_spans[0]", "less than end"),
    "span begins before 0": (pair(chosen_spans=[[-1, 2]]), "chosen_spans[0]", "0 or more"),
    "spans overlap": (pair(chosen_spans=[[0, 4], [3, 6]]), "chosen_spans[1]", "sort and join"),
    "spans unsorted": (pair(chosen_spans=[[4, 6], [0, 3]]), "chosen_spans[1]", "sort and join"),
    "span of fractions": (pair(chosen_spans=[[0.0, 3.0]]), "chosen_spans[0]", "two integers"),
    "span of three": (pair(chosen_spans=[[0, 1, 2]]), "chosen_spans[0]", "two integers"),
    "spans of nothing": (pair(rejected=..., rejected_spans=[[0, 1]]), "rejected_spans", "is not"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_bad_record(name: str, media: Path, tmp_path: Path) -> None:
    record, field, problem = RECORDS[name]
    check_only_problem(problems_of(json.dumps(record), media, tmp_path), field, problem, tmp_path)


def test_the_good_lines_are_good(media: Path, tmp_path: Path) -> None:
    assert problems_of(json.dumps(pair()), media, tmp_path) == []


@pytest.mark.parametrize(
    ("parse", "row", "field", "problem"),
    [
        (Question.parse, {"id": "q", "prompt": "Is it?", "images": ["../a.png"]}, "images[0]", "leaves the"),
        (Question.parse, {"id": "q", "prompt": blocks("image")}, "images", "0 path(s), but prompt has 1 image"),
        (Question.parse, {"id": "q", "prompt": "Is it?", "gold": True}, "gold", "got a boolean"),
        (Question.parse, {"id": "q", "prompt": "Is it?", "answer": "yes"}, "answer", "unknown field"),
        (Prediction.parse, {"id": "q", "text": None}, "text", "is missing"),
        (Prediction.parse, {"id": "q", "text": 1}, "text", "expected a string, got a number"),
        (Prediction.parse, {"question_id": "q", "text": "yes"}, "question_id", "unknown field"),
    ],
)
def test_bad_question_or_prediction(tmp_path: Path, parse: Callable, row: dict, field: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + json.dumps(row))
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path, parse))
    assert str(caught.value).startswith(f"{path}:2: field '{field}': ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("read", [RecordFile, lambda path: list(read_jsonl(path, Record.parse))])
def test_a_file_that_cannot_be_read(tmp_path: Path, read: Callable) -> None:
    for path, problem in ((tmp_path / "gone.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=f"{path}: cannot be read: {problem}"):
            read(path)
