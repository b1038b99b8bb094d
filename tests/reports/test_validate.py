"""`mmalign validate` as a person meets it: lines first, then the file as a whole, and an exit status."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from unittest import mock

import pytest

from mmalign import cli
from mmalign.media import FrameChoice
from mmalign.records import read_jsonl, validate, write_jsonl
from mmalign.reports import audit_pictures, audit_tokens, inspect
from mmalign.reports import validate as verb
from mmalign.scenes import MODEL
from tests.conftest import REPOSITORY
from tests.tiny import write_pairs


@pytest.fixture
def spoilt(tmp_path: Path, pairs: Path) -> Path:
    """The pairs, the third of them once more under another id, and a negative that is the picture itself."""
    rows = list(read_jsonl(pairs, lambda obj, **place: obj))
    rows.append({**rows[2], "id": "again"})
    rows.append({**rows[0], "id": "blind", "rejected_images": rows[0]["images"]})
    for picture in pairs.parent.glob("*.png"):
        (tmp_path / picture.name).write_bytes(picture.read_bytes())
    write_jsonl(tmp_path / "spoilt.jsonl", rows)
    return tmp_path / "spoilt.jsonl"


def test_a_sound_file(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(pairs), "--strict"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{pairs}: 22 records, no problems, no warnings\n\nNotes\n  length_words ")
    assert "fields " in said and "Warnings" not in said


def test_warnings_fail_only_a_strict_run(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(spoilt)]) == 0
    said = capsys.readouterr().out
    assert "24 records, no problems, 2 warnings\n\nWarnings\n  same_record " in said
    assert "23 (as 3)" in said and "negative_file " in said and "Line 24." in said
    assert cli.main(["validate", str(spoilt), "--strict"]) == 1


def test_json(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with spoilt.open("a") as file:
        file.write("{broken\n")
    assert cli.main(["validate", str(spoilt), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["records"] == 25 and [problem["line"] for problem in said["problems"]] == [25]
    warnings = {finding["kind"]: finding["lines"] for finding in said["findings"] if finding["warning"]}
    assert warnings == {"same_record": [23], "negative_file": [24]}


def test_each_picture_is_opened_once(spoilt: Path) -> None:
    with mock.patch.object(audit_pictures, "open_image", wraps=audit_pictures.open_image) as opened:
        assert cli.main(["validate", str(spoilt)]) == 0
    paths = [call.args[0] for call in opened.call_args_list]
    assert len(paths) == len(set(paths)) == len(list(spoilt.parent.glob("*.png")))


def test_without_media_nothing_is_opened(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for picture in spoilt.parent.glob("*.png"):
        picture.unlink()
    assert cli.main(["validate", str(spoilt), "--no_media"]) == 0
    assert "negative_file" in capsys.readouterr().out, "the same name is the same file"
    assert cli.main(["validate", str(spoilt)]) == 1


def test_a_wrong_media_root_is_named(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(pairs), "--media_root", str(tmp_path)]) == 1
    hint = f"names start from {tmp_path}; is --media_root right?"
    assert f"\nno record has all its media: {hint}\n" in capsys.readouterr().out
    for name in next(read_jsonl(pairs, lambda row, **place: row))["images"]:
        (tmp_path / name).write_bytes((pairs.parent / name).read_bytes())
    assert cli.main(["validate", str(pairs), "--media_root", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "no such file" in said and "right?" not in said, "some are there: the root is right"


def test_tokens_and_leaks(spoilt: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--processor", str(tiny_model), "--max_length", "70", "--leaks", str(spoilt.parent)]
    assert cli.main(["validate", str(spoilt), *options]) == 0
    said = capsys.readouterr().out
    assert "tokens " in said and "too_long " in said and "length_tokens " in said and "leak_file " in said


@pytest.mark.parametrize("options, problem", [
    (["--max_length", "5"], "field 'max_length': needs --processor"),
    (["--processor", "x", "--max_length", "0"], "field 'max_length': must be 1 or more"),
    (["--frames", "0"], "field 'frames': must be 1 or more"),
    (["--video_pixels", "0"], "field 'video_pixels': must be 1 or more"),
    (["--fps", "-1"], "field 'fps': expected more than 0"),
    (["--processor", str(MODEL), "--video", "native"], "field 'video': no native clips"),
    (["--no_media", "--leaks", "x"], "field 'leaks': has to look at the pictures"),
    (["--no_media", "--processor", "x"], "field 'processor': has to look at the pictures"),
    (["--leaks", "nowhere"], "nowhere: field 'leaks': cannot be read"),
    (["--processor", "nowhere"], "nowhere: cannot load"),
])  # fmt: skip
def test_options_that_do_not_fit(
    pairs: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["validate", str(pairs), *options]) == 2
    assert problem in capsys.readouterr().err


def test_each_clip_is_opened_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the frames that are asked for, tokens included."""
    pairs = write_pairs(tmp_path, 3, seed=0, pictures=(0,), clips=(1,))
    rows = [{**row, "id": str(i)} for i in range(2) for row in read_jsonl(pairs, lambda obj, **place: obj)]
    write_jsonl(pairs, [*rows, {**rows[0], "id": "gone", "videos": ["gone.avi"]}])
    flags = ["--frames", "4", "--fps", "3", "--video_pixels", "9000", "--processor", str(MODEL), "--json"]
    with mock.patch.object(audit_tokens, "open_clip", wraps=audit_tokens.open_clip) as opened:
        assert cli.main(["validate", str(pairs), *flags]) == 1
    assert sorted(call.args for call in opened.call_args_list) == [
        (f"{i}-0.avi", tmp_path, FrameChoice(4, 3.0, 9000)) for i in range(3)
    ]
    tokens = json.loads(capsys.readouterr().out)["findings"]
    assert next(each for each in tokens if each["kind"] == "tokens")["numbers"]["media_max"] == 3 * 64


def test_each_record_is_given_with_its_line_after_its_media(pairs: Path) -> None:
    seen: list[object] = []
    problems = list(validate(pairs, None, seen.append, lambda record, line: seen.append((record.id, line))))
    assert not problems and [item for item in seen if isinstance(item, tuple)] == [(f"r{i}", i + 1) for i in range(22)]
    assert [Path(seen[0]).name, seen[1]] == ["0-0.png", ("r0", 1)]


def test_the_page_has_every_flag_and_no_other() -> None:
    text = (REPOSITORY / "docs" / "audit.md").read_text(encoding="utf-8")
    for module, section in ((verb, "## validate"), (inspect, "## inspect")):
        parser = argparse.ArgumentParser(add_help=False)
        module.add_arguments(parser)
        listed = re.findall(r"^\| `(--\w+)` \|", text.partition(section)[2].partition("\n## ")[0], re.MULTILINE)
        assert sorted(listed) == sorted(option for action in parser._actions for option in action.option_strings)


def test_the_page_has_every_finding() -> None:
    text = (REPOSITORY / "docs" / "audit.md").read_text(encoding="utf-8")
    said = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "mmalign" / "reports").glob("audit_*.py"))
    for kind in re.findall(r'Finding\(\s*"(\w+)"', said):
        assert f"`{kind}`" in text
