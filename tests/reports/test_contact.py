"""Contact sheets: where each frame stands, which number and colour it has, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.media.perturb import Plan, plans
from mmalign.reports import contact
from mmalign.reports.contact import (
    BAR,
    BREAK,
    GAP,
    LABELS,
    MARGIN,
    PAPER,
    STRANGE,
    TITLE,
    Row,
    colour,
    contact_sheet,
    main,
    rows_of,
)  # fmt: skip
from tests.tiny import write_clip

REVERSE = Plan("reverse", 2, (2, 4), 2, (1, 0), None, 0)
DROP = Plan("drop", 2, (2,), 2, (1,), None, 0)
SPLICE = Plan("splice", 2, (2,), 2, (0, 3), None, 0)


def frames(count: int, size: tuple[int, int] = (80, 60), start: int = 20) -> list[Image.Image]:
    """Each of one grey of its own."""
    return [Image.new("RGB", size, (start + 20 * number,) * 3) for number in range(count)]


def corner(row: int, column: int, sheet_rows: list[Row], cell: tuple[int, int] = (72, 54)) -> tuple[int, int]:
    """Where a frame of a sheet with a title begins, if every row is of another kind."""
    height = cell[1] + BAR + contact.NUMBER + 2 * GAP
    return MARGIN + LABELS + column * (cell[0] + GAP), MARGIN + TITLE + row * (height + BREAK)


def test_rows():
    shown = frames(4)
    rows = list(rows_of(shown, [REVERSE, DROP, SPLICE], frames(4, start=120)))
    assert [(row.label, row.note) for row in rows] == [
        ("clip", "4 frames"), ("reverse", "r = 2, 4"), ("drop", "r = 2"), ("splice", "r = 2"),
    ]  # fmt: skip
    assert [row.places for row in rows] == [(0, 1, 2, 3), (2, 3, 0, 1), (2, 3), (0, 1, 6, 7)]
    greys = [[frame.getpixel((0, 0))[0] for frame in row.frames] for row in rows]
    assert greys == [[20, 40, 60, 80], [60, 80, 20, 40], [60, 80], [20, 40, 160, 180]]


def test_every_frame_is_at_its_place_with_its_colour():
    rows = list(rows_of(frames(4), [REVERSE, DROP, SPLICE], frames(4, start=120)))
    sheet = contact_sheet(rows, "a title")
    right, bottom = corner(3, 3, rows)
    assert sheet.size == (right + 72 + MARGIN, bottom + 54 + BAR + contact.NUMBER + 2 * GAP + MARGIN)
    for number, row in enumerate(rows):
        for column, (frame, place) in enumerate(zip(row.frames, row.places, strict=True)):
            x, y = corner(number, column, rows)
            assert sheet.getpixel((x + 36, y + 27)) == frame.getpixel((0, 0))
            bar = sheet.crop((x, y + 55, x + 72, y + 55 + BAR)).getcolors()
            assert bar == [(72 * BAR, colour(place, 4) if place < 4 else STRANGE)]
            number_below = np.asarray(sheet.crop((x, y + 55 + BAR, x + 72, y + 55 + BAR + 15)).convert("L"))
            assert number_below.min() < 200, "there is a number"
    x, y = corner(2, 2, rows)
    assert sheet.crop((x, y, x + 148, y + 54)).getcolors() == [(148 * 54, PAPER)], "nothing where frames were dropped"


def test_orders_can_be_told_by_brightness():
    for whole in (1, 2, 4, 16, 64):
        lightness = [float(np.dot(colour(place, whole), (0.299, 0.587, 0.114))) for place in range(whole)]
        assert lightness == sorted(set(lightness))
    assert colour(0, 8) == contact.SCALE[0] and colour(7, 8) == contact.SCALE[-1]


def test_shapes():
    tall = contact_sheet([Row("clip", tuple(frames(2, (60, 120))))], pixels=100)
    assert tall.size == (MARGIN * 2 + LABELS + 50 * 2 + GAP, MARGIN * 2 + 100 + BAR + contact.NUMBER + 2 * GAP)
    small = contact_sheet([Row("clip", tuple(frames(1, (20, 20))))], pixels=100)
    assert small.size[0] == MARGIN * 2 + LABELS + 20, "nothing is made larger"
    assert small.size[1] == MARGIN * 2 + contact.LEAST, "there is room for the label"
    wide = contact_sheet([Row("clip", tuple(frames(1)))], "a very long title " * 20)
    assert wide.width > 1000, "a title is not cut off"
    same = [Row("shuffle", tuple(frames(1)), f"r = {r}") for r in (2, 4)]
    other = [Row("shuffle", tuple(frames(1))), Row("drop", tuple(frames(1)))]
    assert contact_sheet(other).height - contact_sheet(same).height == BREAK
    assert contact_sheet(same).tobytes() != contact_sheet([same[0], same[0]]).tobytes(), "the levels can be read"
    mixed = contact_sheet([Row("clip", (*frames(1, (80, 40)), *frames(1, (40, 80))))])
    assert mixed.size[0] == MARGIN * 2 + LABELS + 72 * 2 + GAP


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.avi", frames(9, (64, 48), 10))
    write_clip(folder / "b.avi", frames(3, (64, 48), 100))
    return folder


def test_command(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sheet = tmp_path / "new" / "sheet.png"
    assert main([str(clips / "a.avi"), "--output", str(sheet), "--frames", "8"]) == 0
    kinds = [kind for kind in contact.KINDS if kind != "splice"]
    number = len(plans(kinds, 8, seed=0))
    with Image.open(sheet) as image:
        assert (
            capsys.readouterr().out == f"{sheet}: {number} plans of 8 frames, {image.width} x {image.height} pixels\n"
        )
        assert image.width == MARGIN * 2 + LABELS + 8 * (64 + GAP) - GAP
    before = sheet.read_bytes()
    assert main([str(clips / "a.avi"), "--output", str(sheet), "--seed", "1"]) == 0 and sheet.read_bytes() != before
    some = ["--kinds", "splice", "mask+reverse", "--levels", "2", "--other", str(clips / "b.avi"), "--frames", "3"]
    assert main([str(clips / "a.avi"), "--output", str(tmp_path / "s.jpg"), "--pixels", "32", *some]) == 0
    assert "2 plans of 3 frames" in capsys.readouterr().out
    with Image.open(tmp_path / "s.jpg") as image:
        assert image.format == "JPEG"


def test_a_part_of_a_clip_and_a_folder_of_frames(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number, picture in enumerate(frames(5)):
        (tmp_path / "talk").mkdir(exist_ok=True)
        picture.save(tmp_path / "talk" / f"{number}.png")
    for clip, shown in ((f"{clips / 'a.avi'}#t=0,0.4", 4), (tmp_path / "talk", 5), (f"{tmp_path / 'talk'}#t=2", 3)):
        assert main([str(clip), "--output", str(tmp_path / "sheet.png"), "--kinds", "reverse", "--levels", "2"]) == 0
        assert f"1 plans of {shown} frames" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, problem", [
    (["gone.avi"], "gone.avi"),
    (["a.avi", "--frames", "0"], "field 'frames': must be from 1 to 64, got 0"),
    (["a.avi", "--frames", "65"], "field 'frames': must be from 1 to 64, got 65"),
    (["a.avi", "--pixels", "1"], "field 'pixels': must be from 16 to 512, got 1"),
    (["a.avi", "--kinds", "twist"], "field 'kind': no 'twist'"),
    (["a.avi", "--kinds", "splice"], "field 'other': splice takes from another clip"),
    (["a.avi", "--kinds", "splice", "--other", "b.avi"], "has 3 frames, fewer than the 8 that are shown"),
    (["a.avi", "--levels", "1"], "field 'r': must be 2 or more, got 1"),
    (["a.avi", "--frames", "4", "--units", "8"], "4 frames cannot be dealt to 8 units"),
    (["a.avi", "--output", "sheet.txt"], "field 'output': must end in one of png, jpg, jpeg, webp"),
    (["a.avi", "--output", "a.avi/sheet.png"], "a.avi"),
])  # fmt: skip
def test_what_cannot_be_drawn(clips, arguments, problem, capsys, monkeypatch):
    monkeypatch.chdir(clips)
    assert main(["--output", "sheet.png", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mmalign.reports.contact: ") and problem in said and said.count("\n") == 1
    assert not Path("sheet.png").exists()
