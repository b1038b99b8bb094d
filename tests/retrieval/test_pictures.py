"""Which pictures there are, and by what they are known again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mmalign.media import open_image
from mmalign.records import InputError
from mmalign.retrieval import pictures


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_pictures_below_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b/z.JPG", "b/a.png", "é.webp", "a.jpeg", "notes.txt", ".hidden.png", ".cache/x.png", "b/.y/x.png")
    assert pictures.in_folder(tmp_path) == ["a.jpeg", "b/a.png", "b/z.JPG", "é.webp"]
    assert pictures.in_folder(tmp_path / "b", tmp_path) == ["b/a.png", "b/z.JPG"]
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert pictures.in_folder("b", ".") == ["b/a.png", "b/z.JPG"]
    finally:
        os.chdir(here)
    with pytest.raises(InputError, match="not inside the media root"):
        pictures.in_folder(tmp_path, tmp_path / "b")
    with pytest.raises(InputError, match="no such folder"):
        pictures.in_folder(tmp_path / "c")
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        pictures.in_folder(tmp_path / "c")


def test_a_name_that_is_no_utf8_is_spelled_out(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    assert pictures.in_folder(tmp_path) == ["caf\\xe9.png"]


def test_pictures_that_rows_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = ['{"images": ["b.png", "./a.png"]}', '{"image": "b.png", "question": "?"}', '{"id": "text", "prompt": "?"}']
    file.write_text("\n".join(rows))
    assert pictures.in_records(file) == ["a.png", "b.png"]
    for bad, problem in (
        ('{"images": ["../x.png"]}', "images.*leaves the media root"),
        ('{"image": 3}', "image.*expected a string"),
        ('{"images": "a.png"}', "expected a list"),
        ('["a.png"]', "expected an object"),
    ):
        file.write_text(f"{rows[0]}\n{bad}\n")
        with pytest.raises(InputError, match=problem) as caught:
            pictures.in_records(file)
        assert caught.value.line == 2
    file.write_text(rows[2])
    with pytest.raises(InputError, match="names no picture"):
        pictures.in_records(file)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Smooth, as photographs are, with edges."""
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)


def test_content_hash_is_of_the_pixels(photo: Image.Image, tmp_path: Path) -> None:
    saved = {"a.png": {}, "b.bmp": {}, "c.webp": {"lossless": True}, "d.jpg": {"quality": 95}}
    for name, options in saved.items():
        photo.save(tmp_path / name, **options)
    *same, lossy = (pictures.content_hash(open_image(tmp_path / name)) for name in saved)
    assert len(set(same)) == 1 and lossy != same[0] and len(lossy) == 32
    changed = photo.copy()
    changed.putpixel((5, 5), (1, 2, 3))
    assert pictures.content_hash(changed) != same[0]
    flat = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4)), Image.new("RGB", (8, 1))
    assert len({pictures.content_hash(image) for image in flat}) == 3, "same bytes, other shapes"


def bits(image: Image.Image) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(pictures.difference_hash(image)), np.uint8))


def test_difference_hash(photo: Image.Image) -> None:
    """A ramp that gets brighter has all bits; copies keep most; another picture differs in half."""
    ramp = Image.fromarray(np.tile(np.arange(0, 180, 2, dtype=np.uint8), (80, 1)))
    assert bits(ramp).all() and not bits(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).any()
    copies = (photo.resize((100, 75)), ImageEnhance.Brightness(photo).enhance(0.8), photo.convert("L").convert("RGB"))
    for copy in copies:
        assert (bits(copy) != bits(photo)).sum() <= 4
    assert (bits(photo.rotate(180)) != bits(photo)).sum() > 16
