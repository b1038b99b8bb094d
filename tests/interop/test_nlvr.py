"""NLVR: the published pictures against their object lists, and what is made of them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from mmalign.benchmarks import chair, pope
from mmalign.interop import nlvr
from mmalign.interop.nlvr import Shape
from mmalign.records import InputError, Record, read_jsonl, text_of

GREY = (211, 211, 211)
BETWEEN = (128, 128, 128)


def thing(kind: str, color: str, size: int, x: int, y: int) -> dict:
    return {"type": kind, "color": color, "size": size, "x_loc": x, "y_loc": y}


def draw(boxes: list[list[dict]]) -> Image.Image:
    """A picture as NLVR draws it: squares and discs are exact enough here."""
    image = Image.new("RGB", (400, 100), BETWEEN)
    pen = ImageDraw.Draw(image)
    for left, box in zip(nlvr.BOX_LEFT, boxes, strict=True):
        pen.rectangle((left, 0, left + 99, 99), fill=GREY)
        for item in box:
            x, y = left + item["x_loc"], item["y_loc"]
            shape = pen.ellipse if item["type"] == "circle" else pen.rectangle
            shape((x, y, x + item["size"] - 1, y + item["size"] - 1), fill=nlvr.COLORS[item["color"]][1])
    return image


def row(identifier: str, directory: str, boxes: list[list[dict]]) -> dict:
    return {
        "identifier": identifier,
        "directory": directory,
        "structured_rep": boxes,
        "sentence": "s",
        "label": "true",
    }


LONE = [thing("square", "Black", 20, 40, 40)]


def scene(shift: int) -> list[list[dict]]:
    """Three boxes; only the last is the same for every shift."""
    return [
        [thing("square", "Yellow", 10, shift, 5), thing("circle", "#0099ff", 30, 60, 60)],
        [thing("circle", "Yellow", 20, 70, shift)],
        LONE,
    ]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A split with one row in every directory, as published."""
    folder = tmp_path / "nlvr"
    rows = [row(f"{n}-0", str(n), scene(5 * n)) for n in range(6)]
    write(folder, rows)
    return folder


def write(folder: Path, rows: list[dict]) -> None:
    for item in rows:
        path = folder / "images" / item["directory"] / f"dev-{item['identifier']}-0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(item["structured_rep"]).save(path)
    (folder / "dev.json").write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")


def test_boxes_are_cut_apart_and_placed_in_parts(published: Path) -> None:
    boxes = list(nlvr.read_boxes(published))
    assert [box.name for box in boxes[:4]] == ["0-0-0", "0-0-1", "0-0-2", "1-0-0"]
    assert Counter(box.part for box in boxes) == {"train": 12, "dev": 3, "test": 3}
    assert boxes[0].names == ["blue circle", "yellow square"]
    assert boxes[0].image.size == (100, 100)
    assert boxes[0].image.getpixel((75, 75)) == (0, 153, 255)
    assert boxes[2].shapes == (Shape("black", "square", 20, 40, 40),)


def test_what_train_shows_is_neither_in_dev_nor_in_test(published: Path) -> None:
    boxes, repeated = nlvr.distinct(nlvr.read_boxes(published), list(nlvr.PARTS))
    assert repeated == {"repeated in train": 3, "dev seen in train": 1, "test seen in train": 1}
    assert len({box.scene for box in boxes}) == len(boxes) == 13


def test_conversion_writes_files_that_the_rest_of_the_project_reads(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = nlvr.convert(published, output)
    assert summary == json.loads((output / "summary.json").read_text())
    assert {part: counts["images"] for part, counts in summary["parts"].items()} == {
        "train": 9,
        "dev": 2,
        "test": 2,
    }
    folder = output / "test"
    objects = json.loads((folder / "objects.json").read_text())
    records = list(read_jsonl(folder / "sft.jsonl", Record.parse))
    captions = list(read_jsonl(folder / "captions.jsonl", Record.parse))
    assert captions == [record for record in records if record.meta["kind"] == "caption"]
    assert {name for record in records for name in record.images} == set(objects)
    assert all((folder / name).is_file() for name in objects)
    assert len({record.id for record in records}) == len(records) == summary["parts"]["test"]["records"]
    assert {q.id for q in chair.questions(folder)} == set(objects)
    assert Counter(q.meta["split"] for q in pope.questions(folder)) == summary["parts"]["test"]["questions"]
    again = tmp_path / "again"
    nlvr.convert(published, again)
    for path in (p for p in output.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again / path.relative_to(output)).read_bytes()


# --- what is dropped ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "star"}, "unknown_object"),
        ({"color": "Red"}, "unknown_object"),
        ({"size": 15}, "unknown_object"),
        ({"x_loc": "4"}, "unknown_object"),
        ({"x_loc": 81}, "outside"),
        ({"y_loc": -1}, "outside"),
        ({"x_loc": 5}, "not_visible"),
        ({"color": "Yellow"}, "not_visible"),
    ],
)
def test_boxes_that_their_list_does_not_describe(published: Path, change: dict, reason: str) -> None:
    rows = [json.loads(line) for line in (published / "dev.json").read_text().splitlines()]
    rows[0]["structured_rep"][2] = [{**LONE[0], **change}]
    (published / "dev.json").write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    drops: Counter[str] = Counter()
    names = [box.name for box in nlvr.read_boxes(published, drops=drops)]
    assert drops == {reason: 1} and "0-0-2" not in names and len(names) == 17


def test_pictures_that_cannot_be_used(published: Path) -> None:
    images = published / "images"
    (images / "0" / "dev-0-0-0.png").unlink()
    (images / "1" / "dev-1-0-0.png").write_bytes(b"no picture")
    Image.new("RGB", (300, 100)).save(images / "2" / "dev-2-0-0.png")
    drops: Counter[str] = Counter()
    assert len(list(nlvr.read_boxes(published, drops=drops))) == 9
    assert drops == {"missing": 3, "unreadable": 3, "size": 3}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[]", ":1: expected an object"),
        ('{"identifier": "../../x", "directory": "0", "structured_rep": []}', ":1: field 'identifier'"),
        ('{"identifier": "1-0", "directory": 0, "structured_rep": []}', ":1: field 'directory'"),
        ('{"identifier": "1-0", "directory": "0", "structured_rep": [[]]}', ":1: field 'structured_rep'"),
    ],
)
def test_rows_that_are_wrong(published: Path, line: str, problem: str) -> None:
    (published / "dev.json").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        list(nlvr.read_boxes(published))
    assert f"dev.json{problem}" in str(error.value)


def test_folders_and_parts_that_are_wrong(published: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="as published"):
        nlvr.convert(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="directory 1 is in two parts"):
        nlvr.convert(published, tmp_path / "out", parts={"train": ("1",), "test": ("1",)})
    with pytest.raises(InputError, match="no picture in the part test"):
        nlvr.convert(published, tmp_path / "out", parts={"train": ("1",), "test": ("9",)})


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "top", "place"),
    [
        (0, 0, "in the top left corner"),
        (40, 0, "at the top"),
        (80, 40, "on the right"),
        (40, 40, "in the middle"),
        (24, 80, "at the bottom"),
        (23, 80, "in the bottom left corner"),
    ],
)
def test_places(left: int, top: int, place: str) -> None:
    assert Shape("black", "square", 20, left, top).place == place


SHAPES = (
    Shape("black", "square", 20, 40, 79),
    Shape("black", "square", 20, 40, 58),
    Shape("black", "square", 20, 40, 40),
    Shape("yellow", "circle", 30, 0, 0),
)


def test_a_caption_names_every_object_once_for_each_place_large_ones_first() -> None:
    for seed in range(5):
        text = nlvr.caption(SHAPES, Random(seed))
        sentences = [sentence.removeprefix("There is ").replace(" is ", " ") for sentence in text.split(". ")]
        assert [sentence.strip(".").lower() for sentence in sentences] == [
            "a large yellow circle in the top left corner",
            "a medium black square in the middle",
            "a medium black square at the bottom",
        ]


def test_questions_have_one_true_answer() -> None:
    asked = dict(exchange[1:] for exchange in nlvr.exchanges(SHAPES, Random(0), where=99))
    assert asked["Where is the yellow circle?"] == "In the top left corner."
    assert "Where is the black square?" not in asked  # it is in two places
    assert asked["What is at the bottom?"] == "A black square."
    assert asked["What color is the square?"] == "Black." and asked["What shape is the yellow object?"] == "A circle."
    yes_no = {question: answer for question, answer in asked.items() if question.startswith("Is there")}
    assert Counter(yes_no.values()) == {"Yes.": 2, "No.": 2}
    present = {f"Is there a {name} in the image?" for name in ("black square", "yellow circle")}
    assert {question for question, answer in yes_no.items() if answer == "Yes."} == present


# --- the published data ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    folder = shared_data / "nlvr"
    if not folder.is_dir():
        pytest.skip(f"NLVR is not on this machine: {folder}")
    return folder


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean over pixels and channels. The same shape in another place of the row has slightly other edges."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


def test_permutations_are_in_lexicographic_order(real: Path) -> None:
    """On 40 rows whose boxes differ: picture K shows the boxes of picture 0 in the K-th permutation."""
    rows = [json.loads(line) for line in (real / "dev.json").read_text().splitlines()]
    boxes = [[json.dumps(box, sort_keys=True) for box in row["structured_rep"]] for row in rows]
    differing = [row for row, listed in zip(rows, boxes, strict=True) if len(set(listed)) == 3][:40]
    assert len(differing) == 40
    for item in differing:
        cut = []
        for k in range(6):
            path = real / "images" / item["directory"] / f"dev-{item['identifier']}-{k}.png"
            picture = Image.open(path).convert("RGB")
            cut.append([picture.crop((left, 0, left + 100, 100)) for left in nlvr.BOX_LEFT])
        for shown, order in zip(cut, itertools.permutations(range(3)), strict=True):
            for box, index in zip(shown, order, strict=True):
                distances = [difference(box, other) for other in cut[0]]
                assert distances[index] == min(distances) < 0.5


def test_the_published_folder_converts_without_a_drop(real: Path, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "data_builders" / "nlvr.py"
    command = [sys.executable, str(script), "--nlvr", str(real), "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["boxes"] == 2967 and summary["dropped"] == {}
    assert {part: counts["images"] for part, counts in summary["parts"].items()} == {
        "train": 647,
        "dev": 234,
        "test": 176,
    }
    captions = {
        record.images[0]: text_of(record.chosen)
        for record in read_jsonl(tmp_path / "test" / "sft.jsonl", Record.parse)
        if record.meta["kind"] == "caption"
    }
    questions = list(chair.questions(tmp_path / "test"))
    told = [chair.Prediction(id=q.id, text=captions[q.id]) for q in questions]
    metrics = chair.score(questions, told)["metrics"]
    assert (metrics["chair_i"], metrics["recall"]) == (0.0, 1.0)
    labels = Counter((q.meta["split"], q.gold) for q in pope.questions(tmp_path / "test"))
    assert len(labels) == 6 and len(set(labels.values())) == 1
