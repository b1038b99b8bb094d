"""NLVR: published pictures of drawn shapes with human-written sentences, as SFT records, POPE and CHAIR.

Suhr et al., "A Corpus of Natural Language for Visual Reasoning" (ACL 2017), https://github.com/lil-lab/nlvr
(CC BY 4.0). One split as published is a folder with one file of JSON lines and the pictures::

    {"sentence": "There is a tower with four blocks.", "identifier": "3125-1", "directory": "2",
     "label": "true", "structured_rep": [
         [{"type": "square", "color": "Yellow", "size": 20, "x_loc": 40, "y_loc": 80}], [...], [...]]}

A picture, ``images/DIRECTORY/SPLIT-IDENTIFIER-K.png``, is 400 x 100 pixels: three boxes of 100 x 100 at x =
0, 150 and 300, in the K-th permutation of ``structured_rep`` (in lexicographic order, so K = 0 is the order
of the file; compared with the pixels of all 5,934 pictures of the dev split). Each box becomes one picture
here. The other five permutations show the same boxes and are not used; nor are the sentences, which were
written for three boxes together.

All that was written together stands in one directory, so its authors advise to split by directory: `PARTS`.
The same box can still be drawn many times, towers of blocks above all: the 2,967 boxes of the dev split are
1,057 pictures. Each is kept once, in the first part that has it, so that dev and test show nothing that was
trained on. They then hold no tower at all: every tower of theirs is in train too.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from mmalign.benchmarks import pope
from mmalign.media import MediaError, open_image
from mmalign.records import (
    InputError,
    Record,
    assistant_message,
    atomic_write,
    read_jsonl,
    user_message,
    write_jsonl,
)

SIDE = 100
BOX_LEFT = (0, 150, 300)
COLORS = {
    "Black": ("black", (0, 0, 0)),
    "Yellow": ("yellow", (255, 255, 0)),
    "#0099ff": ("blue", (0, 153, 255)),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {10: "small", 20: "medium", 30: "large"}
NAMES = tuple(f"{color} {shape}" for color, _ in COLORS.values() for shape in SHAPES)
PLACES = (
    ("in the top left corner", "at the top", "in the top right corner"),
    ("on the left", "in the middle", "on the right"),
    ("in the bottom left corner", "at the bottom", "in the bottom right corner"),
)
PARTS: dict[str, tuple[str, ...]] = {"train": ("0", "1", "2", "3"), "dev": ("4",), "test": ("5",)}
"""Image directories of each part; the first part keeps a picture that others have too."""

_COLOR_TOLERANCE = 40


@dataclass(frozen=True)
class Shape:
    """One object of a box: its words, and its place in pixels (left and top edge, side; y downwards)."""

    color: str
    shape: str
    size: int
    left: int
    top: int

    @property
    def name(self) -> str:
        """What the object is called: ``"blue square"``."""
        return f"{self.color} {self.shape}"

    @property
    def centre(self) -> tuple[int, int]:
        """The pixel in its middle."""
        return self.left + self.size // 2, self.top + self.size // 2

    @property
    def place(self) -> str:
        """The ninth of the box that its centre is in, in words."""
        x, y = (min(2, 3 * position // SIDE) for position in self.centre)
        return PLACES[y][x]


@dataclass(frozen=True)
class Box:
    """One picture: where it belongs, what is in it, and its pixels."""

    name: str
    part: str
    shapes: tuple[Shape, ...]
    image: Image.Image

    @property
    def names(self) -> list[str]:
        """Names of the objects in it, sorted, each once."""
        return sorted({shape.name for shape in self.shapes})

    @property
    def scene(self) -> frozenset[Shape]:
        """What is drawn, in whatever order: equal for equal pictures, wherever in the row the box stood."""
        return frozenset(self.shapes)


# --- reading ------------------------------------------------------------------------------------


def read_boxes(
    nlvr: Path, parts: Mapping[str, Sequence[str]] | None = None, drops: Counter[str] | None = None
) -> Iterator[Box]:
    """The boxes of a published split, three for each row; rows of directories in no part are passed over.

    A box is dropped, and counted by its reason in ``drops``, when its picture cannot be opened (the reasons
    of `MediaError`) or has another size (size), when an object has a color, shape or size that NLVR does not
    have (unknown_object) or leaves the box (outside), or when the picture does not show the object where the
    list has it (not_visible). None of the published dev split is.

    Raises:
        InputError: not a published split, or a row without the fields that are read.
    """
    rows = _rows_file(Path(nlvr))
    part_of = {directory: part for part, names in (parts or PARTS).items() for directory in names}
    drops = Counter() if drops is None else drops
    for row in read_jsonl(rows, _row):
        if row["directory"] not in part_of:
            continue
        try:
            image = open_image(rows.parent / "images" / row["directory"] / f"{rows.stem}-{row['identifier']}-0.png")
        except MediaError as error:
            drops[error.reason] += len(BOX_LEFT)
            continue
        for index, left in enumerate(BOX_LEFT):
            picture = image.crop((left, 0, left + SIDE, SIDE))
            shapes, problem = _shapes(row["structured_rep"][index], picture)
            if image.size != (BOX_LEFT[-1] + SIDE, SIDE):
                problem = "size"
            if problem:
                drops[problem] += 1
                continue
            yield Box(f"{row['identifier']}-{index}", part_of[row["directory"]], shapes, picture)


def _rows_file(nlvr: Path) -> Path:
    found = sorted(nlvr.glob("*.json"))
    if len(found) != 1 or not (nlvr / "images").is_dir():
        raise InputError("expected a split of NLVR as published: one .json file and the folder images", file=nlvr)
    return found[0]


def _row(obj: Any, *, file: Path, line: int) -> dict[str, Any]:
    if not isinstance(obj, dict):
        raise InputError("expected an object", file=file, line=line)
    for name in ("identifier", "directory"):
        if not isinstance(obj.get(name), str) or not obj[name].replace("-", "").isalnum():
            raise InputError("expected a name of letters and digits", file=file, line=line, field=name)
    boxes = obj.get("structured_rep")
    if not isinstance(boxes, list) or [type(box) for box in boxes] != [list] * len(BOX_LEFT):
        raise InputError("expected three lists of objects", file=file, line=line, field="structured_rep")
    return obj


def _shapes(items: Sequence[Any], picture: Image.Image) -> tuple[tuple[Shape, ...], str]:
    """The shapes of one box in the order of the file, and what is wrong with them ("" where nothing is)."""
    shapes = []
    for item in items:
        try:
            color, rgb = COLORS[item["color"]]
            shape = Shape(color, SHAPES[SHAPES.index(item["type"])], item["size"], item["x_loc"], item["y_loc"])
            known = shape.size in SIZES and all(type(edge) is int for edge in (shape.left, shape.top))
        except (KeyError, TypeError, ValueError):
            known = False
        if not known:
            return (), "unknown_object"
        if min(shape.left, shape.top) < 0 or max(shape.left, shape.top) + shape.size > SIDE:
            return (), "outside"
        if any(abs(a - b) > _COLOR_TOLERANCE for a, b in zip(picture.getpixel(shape.centre), rgb, strict=True)):
            return (), "not_visible"
        shapes.append(shape)
    return tuple(shapes), ""


def distinct(boxes: Iterable[Box], parts: Sequence[str]) -> tuple[list[Box], Counter[str]]:
    """The boxes without those whose scene occurred before, in an earlier one of ``parts`` or in the same.

    Returns:
        The boxes that are kept, part by part, and how many were not, as ``repeated in PART`` and
        ``PART seen in EARLIER``.
    """
    kept: dict[frozenset[Shape], Box] = {}
    repeated: Counter[str] = Counter()
    for box in sorted(boxes, key=lambda box: parts.index(box.part)):
        first = kept.setdefault(box.scene, box)
        if first.part != box.part:
            repeated[f"{box.part} seen in {first.part}"] += 1
        elif first is not box:
            repeated[f"repeated in {box.part}"] += 1
    return list(kept.values()), repeated


# --- words --------------------------------------------------------------------------------------
# The wording is that of mmalign.scenes, so that its model has few new words to learn.


def caption(shapes: Sequence[Shape], random: Random) -> str:
    """One sentence for each kind of object in each place, large ones first and from left to right."""
    ordered = sorted(shapes, key=lambda shape: (-shape.size, shape.left, shape.top))
    told = dict.fromkeys((f"a {SIZES[shape.size]} {shape.name}", shape.place) for shape in ordered)
    return " ".join(
        _sentence(random.choice((f"there is {what} {where}", f"{what} is {where}"))) for what, where in told
    )


def exchanges(
    shapes: Sequence[Shape], random: Random, yes_no: int = 4, where: int = 4
) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer: a caption, ``where`` questions of what is where, ``yes_no`` of is it there.

    There may be fewer, where the picture gives no more. Half of the yes/no questions have the answer yes.
    """
    yield "caption", "Describe the image.", caption(shapes, random)
    placed = list(_where_questions(shapes))
    yield from random.sample(placed, min(where, len(placed)))
    present = sorted({shape.name for shape in shapes})
    absent = [name for name in NAMES if name not in present]
    count = min(yes_no // 2, len(present), len(absent))
    for names, answer in ((present, "Yes."), (absent, "No.")):
        for name in random.sample(names, count):
            yield "exists", pope.ask(name), answer


def _where_questions(shapes: Sequence[Shape]) -> Iterator[tuple[str, str, str]]:
    """Every question of what is where that has one answer."""
    at: dict[str, set[str]] = defaultdict(set)
    here: dict[str, set[str]] = defaultdict(set)
    for shape in shapes:
        at[shape.name].add(shape.place)
        here[shape.place].add(shape.name)
    for name, places in at.items():
        if len(places) == 1:
            yield "where", f"Where is the {name}?", _sentence(*places)
    for place, names in here.items():
        if len(names) == 1:
            yield "what", f"What is {place}?", _sentence(f"a {next(iter(names))}")
    yield from _attribute_questions(sorted({(shape.color, shape.shape) for shape in shapes}))


def _attribute_questions(kinds: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for color, shape in kinds:
        if sum(other == shape for _, other in kinds) == 1:
            yield "color", f"What color is the {shape}?", _sentence(color)
        if sum(other == color for other, _ in kinds) == 1:
            yield "shape", f"What shape is the {color} object?", _sentence(f"a {shape}")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# --- writing ------------------------------------------------------------------------------------


def convert(
    nlvr: Path,
    output: Path,
    *,
    parts: Mapping[str, Sequence[str]] | None = None,
    per_image: int = 6,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a published split of NLVR as this project's files, a folder of ``output`` for each part.

    Each holds ``images/``, ``objects.json`` ({image: [names]}, for CHAIR), ``sft.jsonl`` (records with prompt
    and chosen: a caption, and questions of what is where and of what is there), ``captions.jsonl`` (of these the
    captions alone, which pairs are built from), and ``pope_random.json``,
    ``pope_popular.json`` and ``pope_adversarial.json``, whose popular and adversarial names are those of the
    first part. All paths are relative to the part's folder. ``output/summary.json`` holds the counts.

    Args:
        nlvr: folder of the split.
        output: folder to write; files of the same name are replaced.
        parts: image directories of each part, training part first; `PARTS` by default.
        per_image: POPE questions for each picture at most; even.
        seed: of wording and of the choice of questions.

    Returns:
        The counts.

    Raises:
        InputError: see `read_boxes`; or a directory in two parts, or a part without a picture.
    """
    parts, output = parts or PARTS, Path(output)
    _check_parts(parts)
    drops: Counter[str] = Counter()
    boxes = list(read_boxes(nlvr, parts, drops))
    kept, repeated = distinct(boxes, list(parts))
    objects = {part: {f"images/{box.name}.png": box.names for box in kept if box.part == part} for part in parts}
    if empty := [part for part, images in objects.items() if not images]:
        raise InputError(f"no picture in the part {empty[0]}: does {Path(nlvr) / 'images'} have its directories?")
    statistics = next(iter(objects.values()))
    summary: dict[str, Any] = {
        "boxes": len(boxes),
        "dropped": dict(drops),
        "repeated": dict(repeated),
        "parts": {},
    }
    for part, images in objects.items():
        folder = output / part
        records = _write_pictures(folder, [box for box in kept if box.part == part], seed)
        _write_json(folder / "objects.json", images)
        questions = pope.write_questions(folder, images, per_image=per_image, seed=seed, statistics=statistics)
        summary["parts"][part] = {"images": len(images), "records": records, "questions": questions}
    _write_json(output / "summary.json", summary)
    return summary


def _check_parts(parts: Mapping[str, Sequence[str]]) -> None:
    directories = Counter(directory for names in parts.values() for directory in names)
    if double := [directory for directory, count in directories.items() if count > 1]:
        raise InputError(f"directory {double[0]} is in two parts, or twice in one")


def _write_pictures(folder: Path, boxes: Sequence[Box], seed: int) -> int:
    """Pictures and SFT records of one part; returns how many records there are."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for box in boxes:
        box.image.save(folder / "images" / f"{box.name}.png")
        told = exchanges(box.shapes, Random(f"{seed}:{box.name}"))
        records += [_record(box, f"{box.name}#{number}", *exchange) for number, exchange in enumerate(told)]
    write_jsonl(folder / "sft.jsonl", records)
    write_jsonl(folder / "captions.jsonl", (record for record in records if record.meta["kind"] == "caption"))
    return len(records)


def _record(box: Box, name: str, kind: str, question: str, answer: str) -> Record:
    return Record(
        id=name,
        prompt=[user_message(question, images=1)],
        chosen=[assistant_message(answer)],
        images=(f"images/{box.name}.png",),
        meta={"source": "nlvr", "kind": kind, "objects": box.names},
    )


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
