"""Names of media: what is taken, what it is called, and what never leaves the folder."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from mmalign.interop._media import Media
from mmalign.records import InputError
from tests.interop.reading import picture, put_pictures


@pytest.fixture
def media(tmp_path: Path) -> Media:
    put_pictures(tmp_path / "root", "a.png", "in/b.png")
    return Media(tmp_path / "root", tmp_path / "out" / "media", tmp_path / "out")


def reason(error: pytest.ExceptionInfo) -> str:
    return error.value.reason


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling", ["in/b.png", "./in//b.png", "in/../in/b.png", "ROOT/in/b.png", "file://ROOT/in/b.png"]
)
def test_paths_inside_the_root_become_short_names(media: Media, spelling: str) -> None:
    path = spelling.replace("ROOT", str(media.root))
    assert media.picture(path) == media.picture(Path(path) if ":" not in path else path) == "in/b.png"
    assert media.picture({"bytes": None, "path": path}) == "in/b.png"
    assert media.base == media.root


def test_a_root_that_is_a_link(media: Media, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(media.root)
    through = Media(tmp_path / "link", tmp_path / "out", tmp_path / "out")
    assert through.picture(tmp_path / "link" / "a.png") == through.picture(media.root / "a.png") == "a.png"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("../secret.png", "outside"),
        ("in/../../secret.png", "outside"),
        ("/etc/passwd", "outside"),
        ("C:\\a.png", "outside"),
        ("way_out", "outside"),
        ("a\0.png", "outside"),
        (".", "outside"),
        ("https://host/a.png", "url"),
        ("s3://bucket/a.png", "url"),
        ("gone.png", "missing"),
        ("in", "unreadable"),
        ("", "no_media"),
        (None, "no_media"),
        (7, "no_media"),
        ({"bytes": None, "path": None}, "no_media"),
        ({}, "no_media"),
    ],
)
def test_paths_that_are_refused(media: Media, tmp_path: Path, value: object, expected: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    (media.root / "way_out").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError) as error:
        media.picture(value)
    assert reason(error) == expected


def test_each_file_is_opened_once_also_where_it_is_broken(media: Media) -> None:
    (media.root / "broken.png").write_bytes(b"no picture")
    problems = []
    for _ in range(2):
        assert media.picture("a.png") == "a.png"
        with pytest.raises(InputError, match="not a picture") as error:
            media.picture("broken.png")
        problems.append((str(error.value), reason(error)))
        (media.root / "a.png").unlink(missing_ok=True)
        (media.root / "broken.png").write_bytes(picture())
    assert problems[0] == problems[1] and problems[0][1] == "unreadable"


def test_unchecked_media_need_not_be_there_but_stay_inside(media: Media) -> None:
    blind = Media(media.root, media.store, media.home, check=False)
    assert blind.picture("gone.png") == "gone.png" and blind.video("gone.mp4") == "gone.mp4"
    with pytest.raises(InputError):
        blind.picture("../gone.png")
    with pytest.raises(InputError):
        blind.picture(b"no picture")


def test_clips_are_there_and_frames_come_in_the_order_of_their_numbers(media: Media) -> None:
    (media.root / "c.mp4").write_bytes(b"a clip")
    put_pictures(media.root, *(f"clip/{name}" for name in ("f10.png", "f9.PNG", "f1.png")))
    (media.root / "clip" / "notes.txt").write_text("no frame")
    assert media.video("c.mp4") == "c.mp4"
    assert media.is_folder("clip") and not media.is_folder("c.mp4") and not media.is_folder("gone")
    assert media.frames(media.root / "clip") == ["clip/f1.png", "clip/f9.PNG", "clip/f10.png"]
    for wrong in ("gone", "c.mp4"):
        with pytest.raises(InputError, match="no folder of frames"):
            media.frames(wrong)


# --- bytes ------------------------------------------------------------------------------------------------------------


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("kind", "ending"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif"), ("TIFF", ".tif")]
)
def test_bytes_are_kept_as_they_came_under_their_hash(media: Media, kind: str, ending: str) -> None:
    data = picture("red", kind)
    name = media.picture(data)
    assert name.startswith("media/") and name.endswith(ending) and (media.home / name).read_bytes() == data
    spellings = [
        bytearray(data),
        memoryview(data),
        {"bytes": data, "path": "../x"},
        f"data:image/x;base64,{encoded(data)}",
    ]
    assert {media.picture(value) for value in spellings} == {name}
    assert [path.name for path in media.store.iterdir()] == [Path(name).name]
    assert media.base == media.home


def test_long_strings_are_base64(media: Media) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    wrapped = "\n".join(encoded(buffer.getvalue())[i : i + 76] for i in range(0, 10_000, 76))
    assert (media.home / media.picture(wrapped)).read_bytes() == buffer.getvalue()
    with pytest.raises(InputError, match="neither a path nor base64") as error:
        media.picture("neither / nor * " * 100)
    assert reason(error) == "unreadable"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
def test_pictures_without_bytes_become_png(media: Media, mode: str) -> None:
    image = Image.new("RGB", (5, 4), "white").convert(mode)
    name = media.picture(image)
    with Image.open(media.home / name) as kept:
        assert name.endswith(".png") and kept.convert("RGB").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "truncated"), (b"no picture", "unreadable"), (picture()[:-30], "truncated"), (b"%PDF-1.4", "unreadable")],
)
def test_broken_bytes_are_refused_and_leave_nothing(media: Media, data: bytes, expected: str) -> None:
    for _ in range(2):
        with pytest.raises(InputError) as error:
            media.picture(data)
        assert reason(error) == expected and str(media.home) not in str(error.value)
    assert list(media.store.iterdir()) == []


def test_many_threads_write_each_picture_once_and_whole(media: Media) -> None:
    pictures = [picture((i % 5, 0, 0)) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(media.picture, pictures))
    assert [(media.home / name).read_bytes() for name in names] == pictures
    assert len(list(media.store.iterdir())) == 5


# --- files behind names -----------------------------------------------------------------------------------------------


def test_files_behind_names(media: Media) -> None:
    assert media.path("in/b.png") == media.root / "in" / "b.png"
    assert media.content("a.png") == (media.root / "a.png").read_bytes()
    (media.root / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a picture"):
        media.content("broken.png")
    for wrong in ("gone.png", "../secret.png"):
        with pytest.raises(InputError):
            media.path(wrong)
