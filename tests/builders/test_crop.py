"""Crops: which pieces are drawn, what the files are, and what becomes of records."""

from __future__ import annotations

import os
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted import media, run, source

from mmalign import runs
from mmalign.builders import Drop, build, crop, load, main
from mmalign.builders.crop import random_box, resized
from mmalign.media import open_image
from mmalign.records import InputError, Record, read_jsonl, validate, write_jsonl

SCALE, RATIO = (0.01, 0.2), (3 / 4, 4 / 3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """a.png and b.png, a.jpg of the same pixels, and pictures of one colour, of one pixel, and upright by EXIF only."""
    media(tmp_path)
    Image.open(tmp_path / "a.png").save(tmp_path / "a.jpg", quality=95)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "plain.png")
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.effect_noise((60, 20), 64).convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    return tmp_path


def boxes(size: tuple[int, int], number: int, scale=SCALE, ratio=RATIO) -> np.ndarray:
    """Shape: (number, 4)."""
    seeds = (np.array([seed], dtype=np.uint64) for seed in range(number))
    draws = ((float(runs.uniform(seed, counter)[0]) for counter in count()) for seed in seeds)
    return np.array([random_box(size, scale, ratio, own) for own in draws])


def test_area_shape_and_place_of_pieces():
    width, height, number = 640, 480, 4000
    left, top, right, bottom = boxes((width, height), number).T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= width and bottom.max() <= height
    wide, high = right - left, bottom - top
    area, shape = wide * high / (width * height), np.log(wide / high)
    low, top_end = SCALE
    # Uniform: mean and standard deviation, each within four standard errors; whole pixels move both a little.
    assert area.mean() == pytest.approx((low + top_end) / 2, abs=4 * (top_end - low) / 12**0.5 / number**0.5)
    assert area.std() == pytest.approx((top_end - low) / 12**0.5, rel=0.03)
    assert low * 0.95 <= area.min() and area.max() <= top_end * 1.01
    assert shape.mean() == pytest.approx(0, abs=4 * 2 * np.log(4 / 3) / 12**0.5 / number**0.5)
    assert shape.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.03)
    assert abs(np.corrcoef(area, shape)[0, 1]) < 0.06
    for place, room in ((left, width - wide), (top, height - high)):
        assert (place / room).mean() == pytest.approx(0.5, abs=0.02)
        assert (place == 0).any() and (place == room).any(), "both edges are reached"


def test_the_first_try_that_fits_is_taken():
    draws = iter([0.0, 0.5, 0.999999, 0.0])  # area, shape, left, top
    assert random_box((100, 100), (0.25, 0.5), (0.5, 2.0), draws) == (50, 0, 100, 50)
    wide = iter([0.0, 0.99, 0.0, 0.5, 0.0, 0.5])  # twice as wide as high does not fit: another draw
    assert random_box((100, 100), (0.81, 0.9), (0.5, 2.0), wide) == (0, 5, 90, 95)


@pytest.mark.parametrize("size, box", [
    ((1000, 6), (496, 0, 504, 6)),  # 4/3 of the height
    ((6, 1000), (0, 496, 6, 504)),
    ((50, 50), (0, 0, 50, 50)),
])  # fmt: skip
def test_what_never_fits_is_taken_from_the_middle(size, box):
    assert tuple(random_box(size, (1.0, 1.0), RATIO, (0.999 for _ in count()))) == box


def test_no_pixel_outside_the_piece_has_a_part():
    picture = Image.new("RGB", (60, 60), "white")
    picture.paste("black", (20, 20, 40, 40))
    piece = resized(picture, (20, 20, 40, 40))
    assert piece.size == (60, 60) and piece.getextrema() == ((0, 0),) * 3


def test_record(root: Path):
    given = source("s", "A cat.", ("a.png", "b.png"), meta={"x": 1}, weight=2.0, chosen_scores={"reward": 1.0})
    made = run(load("crop", seed=3), None, root, given)["s"]
    assert (made.id, made.prompt, made.chosen, made.images) == ("s#crop", given.prompt, given.chosen, given.images)
    assert made.rejected is None and made.weight == 2.0 and made.chosen_scores == {"reward": 1.0}
    assert Record.parse(made.to_json()) == made
    assert made.meta["seed"] == 3 and made.meta["sizes"] == [[64, 64]] * 2 and made.meta["source"] == {"x": 1}
    first, second = made.meta["boxes"]
    assert first != second, "each picture has its own"
    for name, whole, box in zip(made.rejected_images, given.images, made.meta["boxes"], strict=True):
        assert name.startswith("crops/") and name.endswith(".png")
        expected = resized(open_image(root / whole), tuple(box))
        assert open_image(root / name).tobytes() == expected.tobytes() and expected.size == (64, 64)
    clip = [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]}]
    mixed = run(load("crop"), None, root, Record("m", clip, given.chosen, images=("a.png",), videos=("a.mp4",)))["m"]
    assert mixed.rejected_videos == () and Record.parse(mixed.to_json()) == mixed
    assert mixed.negative_media == (mixed.rejected_images, ("a.mp4",)), "of a clip there is no crop: it stays"
    two = source("t", "A cat.", rejected=source("t", "A dog.").chosen)
    assert run(load("crop"), None, root, two)["t"].rejected == two.rejected


def test_pieces_depend_on_seed_and_source_alone(root: Path):
    sources = [source(f"s{i}", "A cat.") for i in range(3)]
    made = run(load("crop"), None, root, *sources)
    assert len({str(record.meta["boxes"]) for record in made.values()}) == 3
    before = {file: (file.read_bytes(), file.stat().st_ino) for file in (root / "crops").iterdir()}
    assert len(before) == 3
    assert run(load("crop"), None, root, sources[1])["s1"] == made["s1"]
    assert {file: file.read_bytes() for file in (root / "crops").iterdir()} == {f: b for f, (b, _) in before.items()}
    assert run(load("crop", seed=1), None, root, sources[1])["s1"].meta["boxes"] != made["s1"].meta["boxes"]


def test_another_picture_under_the_same_name_is_another_file(root: Path):
    [first] = run(load("crop"), None, root, source("s", "A cat."))["s"].rejected_images
    (root / "a.png").write_bytes((root / "b.png").read_bytes())
    [second] = run(load("crop"), None, root, source("s", "A cat."))["s"].rejected_images
    assert first != second and (root / first).exists()


def test_a_jpeg_stays_one_whatever_its_name(root: Path):
    (root / "x").mkdir()
    (root / "x" / ("long name, ü " * 10 + ".png")).write_bytes((root / "a.jpg").read_bytes())
    given = source("s", "A cat.", ("x/" + "long name, ü " * 10 + ".png", "a.png"))
    first, second = run(load("crop", folder="new/crops"), None, root, given)["s"].rejected_images
    assert first.startswith("new/crops/long name") and first.endswith(".jpg")
    kinds = []
    for name in (first, second):
        with Image.open(root / name) as picture:
            kinds.append((picture.format, picture.mode))
    assert kinds == [("JPEG", "RGB"), ("PNG", "RGB")]


def test_boxes_count_in_the_upright_picture(root: Path):
    made = run(load("crop"), None, root, source("s", "A cat.", ("turned.jpg",)))["s"]
    assert made.meta["sizes"] == [[20, 60]]
    assert open_image(root / made.rejected_images[0]).size == (20, 60)


def test_drops(root: Path):
    reasons = {
        "missing": ("gone.png",), "truncated": ("a.png", "cut.png"), "unreadable": ("page.png",), "bad_path": ("../a",),
        "too_large": ("wide.png",), "no_image": (), "same_picture": ("plain.png", "dot.png"),
    }  # fmt: skip
    sources = [source(reason, "A cat.", names) for reason, names in reasons.items()]
    sources += [source("no_answer", None), source("video", "A cat.", (), videos=("a.mp4",))]
    sources += [source("has_negative", "A cat.", rejected_images=("b.png",))]
    made = run(load("crop"), None, root, *sources)
    assert {name: drop.reason for name, drop in made.items()} == {name: name for name in made}
    assert not (root / "crops").exists(), "nothing is written for what is dropped"
    assert not isinstance(run(load("crop"), None, root, source("s", "A.", ("a.png", "plain.png")))["s"], Drop)


@pytest.mark.parametrize("options", [
    {"scale_min": 0.0}, {"scale_min": 0.3}, {"scale_min": float("nan")}, {"ratio_min": 0.0}, {"ratio_min": 2.0},
    {"folder": ""}, {"folder": "../crops"}, {"folder": "/tmp/crops"},
])  # fmt: skip
def test_options_out_of_range(options: dict):
    with pytest.raises(InputError) as caught:
        load("crop", **options)
    assert caught.value.field == next(iter(options))
    with pytest.raises(InputError):
        load("crop", scale_max=1.5)


def test_records_that_need_the_same_file_can_write_it_at_once(root: Path):
    """What is too thin for the wanted shape is cut from the middle, so two records of one picture have one piece."""
    Image.effect_noise((3, 400), 64).convert("RGB").save(root / "thin.png")
    sources = [source(f"s{i}", "A cat.", ("thin.png",)) for i in range(40)]
    made = run(load("crop", scale_min=0.5, scale_max=0.5), None, root, *sources)
    [name] = {record.rejected_images for record in made.values()}
    assert [file.name for file in (root / "crops").iterdir()] == [Path(name[0]).name], "and nothing is left behind"


def test_a_link_out_of_the_media_root(root: Path, tmp_path_factory: pytest.TempPathFactory):
    outside = tmp_path_factory.mktemp("outside")
    (root / "crops").symlink_to(outside)
    with pytest.raises(InputError, match="leaves the media root") as caught:
        run(load("crop"), None, root, source("s", "A cat."))
    assert caught.value.field == "folder" and not list(outside.iterdir())


def test_a_folder_that_cannot_be_written_to(root: Path):
    (root / "crops").write_text("a file")
    with pytest.raises(InputError, match="cannot be written") as caught:
        run(load("crop"), None, root, source("s", "A cat."))
    assert caught.value.field == "folder"
    (root / "closed").mkdir(mode=0o500)
    if not os.access(root / "closed", os.W_OK):  # root may write anywhere
        with pytest.raises(InputError, match="Permission denied"):
            run(load("crop", folder="closed"), None, root, source("s", "A cat."))


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = root / "data.jsonl", tmp_path / "out" / "crops.jsonl"
    write_jsonl(data, [source("s", "A cat."), source("t", "A dog.", ("cut.png",))])
    assert main("crop", ["--data", str(data), "--output", str(output)]) == 0
    assert "1 records from 1 of 2 sources" in capsys.readouterr().out
    assert not list(validate(output, root, open_image))
    assert main("crop", ["--data", str(data), "--output", str(output), "--model", "m"]) == 2
    assert "no such flag: --model" in capsys.readouterr().err


def test_of_two_runs_the_second_writes_the_same_bytes(root: Path, tmp_path: Path):
    sources = [source(f"s{i}", "A cat.", ("a.jpg",)) for i in range(3)]
    builder = load("crop")
    for name in ("one", "two"):
        build(builder, sources, None, tmp_path / f"{name}.jsonl", media_root=root, unit_size=1, progress=False)
    one, two = (list(read_jsonl(tmp_path / f"{name}.jsonl", Record.parse)) for name in ("one", "two"))
    assert one == two and len(list((root / "crops").iterdir())) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_runs_at_the_same_time_break_nothing_of_each_other(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int):
    """While a piece of one run is written, the other one, with the same seed or another, makes all of its."""
    record, real, made = source("s", "A cat."), crop.atomic_write, []

    @contextmanager
    def atomic_write(path: Path, *temporary: Path):
        with real(path, *temporary) as file:
            monkeypatch.setattr(crop, "atomic_write", real)
            made.append(run(load("crop", seed=seed), None, root, record)["s"])
            yield file

    monkeypatch.setattr(crop, "atomic_write", atomic_write)
    made.append(run(load("crop"), None, root, record)["s"])
    for each in made:
        expected = resized(open_image(root / "a.png"), tuple(each.meta["boxes"][0]))
        assert open_image(root / each.rejected_images[0]).tobytes() == expected.tobytes()
    assert len(made) == 2 and len(list((root / "crops").iterdir())) == 1 + seed
