"""Which pictures there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
