"""Frames of clips: which are chosen, which are read, and what is refused."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmalign.media import Clip, FrameChoice, MediaError, Part, open_clip, probe, read_clip, read_indices, stream
from mmalign.media.choice import WHOLE, choose, frame_places
from mmalign.records import InputError
from tests.media import clips
from tests.tiny import write_clip

REAL = {  # frames, size, seconds
    "counter.mp4": (30, (1920, 1080), 3.0),
    "delayed_start.mp4": (24, (480, 320), 0.96),
    "fades.mp4": (250, (480, 320), 10.0),
    "flipping_a_pancake.mkv": (310, (426, 240), 10.333),
    "goldeneye-vfr-drop3.mp4": (160, (1280, 544), 9.968),
    "shots_3min.mp4": (5301, (160, 90), 212.04),
    "unordered.mov": (4, (50, 50), 0.125),
    "video_0.mov": (3, (568, 320), 0.1),
    "video_90.mov": (3, (320, 568), 0.1),
}
UNEVEN = np.array([0.0, 0.1, 0.5, 0.6, 0.7, 2.9])
"""Times of six frames of a clip of three seconds."""

READERS = ("av", "decord")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Clips whose pictures say which frame they are, by name."""
    return clips.make(tmp_path_factory.mktemp("clips"))


def need(name):
    """Skips without it. It is not imported here: the libraries of the two readers do not get along in one process."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.fixture(params=READERS)
def reader(request, monkeypatch):
    """Each of the two readers, alone."""
    need(request.param)
    monkeypatch.setenv("MMALIGN_VIDEO_READER", request.param)
    return request.param


def reason(call, *arguments):
    with pytest.raises(MediaError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value.reason


# ---- which frames are chosen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "count", "expected"), [(10, 2, [2, 7]), (8, 8, range(8)), (3, 8, range(3))])
def test_places(total, count, expected):
    assert frame_places(total, count).tolist() == list(expected)


@pytest.mark.parametrize("rate", [10, 25, 30000 / 1001])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 16, 60, 100])
def test_a_constant_rate_gives_the_middles_of_equal_parts(rate, count):
    for total in (1, 2, 10, 59, 60, 64, 5301):
        times = np.arange(total) / rate
        found = choose(times, total / rate, FrameChoice(count))
        assert found.indices.tolist() == frame_places(total, count).tolist()


def chosen(choice, part=WHOLE, times=UNEVEN, duration=3.0):
    return choose(times, duration, choice, part)


def test_by_count_the_frame_that_is_shown_then():
    assert chosen(FrameChoice(3)).indices.tolist() == [2, 4, 4]  # at 0.5, 1.5 and 2.5
    assert chosen(FrameChoice(6)).indices.tolist() == list(range(6))  # as many as there are: each once
    assert chosen(FrameChoice(60)).times.tolist() == UNEVEN.tolist()


def test_by_rate():
    times = np.arange(100) / 10
    assert chosen(FrameChoice(8, fps=0.5), times=times, duration=10.0).indices.tolist() == [10, 30, 50, 70, 90]
    assert chosen(FrameChoice(4, fps=0.5), times=times, duration=10.0).indices.tolist() == [12, 37, 62, 87]
    assert chosen(FrameChoice(8, fps=0.01), times=times, duration=10.0).indices.tolist() == [50]
    assert chosen(FrameChoice(200, fps=100), times=times, duration=10.0).indices.tolist() == list(range(100))


def test_by_times_of_what_is_shown():
    assert chosen(FrameChoice(times=(2.95, 0, 0.55, 3.0))).indices.tolist() == [5, 0, 2, 5]
    assert chosen(FrameChoice(times=(0.05, 2.0)), Part(0.5)).indices.tolist() == [2, 4]
    halves = Part(order=(1, 0), parts=2)
    found = chosen(FrameChoice(times=(0, 1.45, 1.55, 2.2)), halves)
    assert found.indices.tolist() == [4, 5, 0, 4]
    assert found.times.tolist() == pytest.approx([0, 1.4, 1.5, 2.2])
    assert reason(chosen, FrameChoice(times=(3.1,))) == "out_of_range"
    assert reason(chosen, FrameChoice(times=(1.1,)), Part(1.0, 2.0)) == "out_of_range"


def test_within_a_part():
    found = chosen(FrameChoice(2), Part(0.55, 0.75))
    assert found.indices.tolist() == [3, 4]
    assert chosen(FrameChoice(8), Part(0.55, 0.75)).indices.tolist() == [2, 3, 4]  # 2 is still shown when it begins
    assert chosen(FrameChoice(8), Part(0.55, 0.75)).times.tolist() == pytest.approx([0, 0.05, 0.15])
    assert found.duration == pytest.approx(0.2)


def test_parts_in_another_order():
    times = np.arange(40) / 10
    shown = Part(order=(2, 0), parts=4)
    found = chosen(FrameChoice(4), shown, times, 4.0)
    assert found.indices.tolist() == [22, 27, 2, 7]
    assert found.times.tolist() == pytest.approx([0.2, 0.7, 1.2, 1.7])
    assert found.duration == pytest.approx(2.0)
    every = chosen(FrameChoice(20), shown, times, 4.0)
    assert every.indices.tolist() == [*range(20, 30), *range(10)]
    assert every.times.tolist() == pytest.approx(np.arange(20) / 10)
    assert chosen(FrameChoice(2), Part(order=(0, 0), parts=4), times, 4.0).indices.tolist() == [5, 5]
    plain = chosen(FrameChoice(40), Part(order=(0, 1, 2), parts=3), times, 4.0)
    assert plain.indices.tolist() == list(range(40))  # a frame on the border is not shown twice


def test_position_p_lies_in_the_part_that_is_shown_then():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 60, 600))
    times[0] = 0
    for parts in (2, 3, 7, 16):
        order = tuple(map(int, rng.permutation(parts)[: max(1, parts - 1)]))
        found = chosen(FrameChoice(48), Part(3, 45, order, parts), times, 61.0)
        for i, index in enumerate(found.indices):
            p = (i + 0.5) / 48
            length, part = 42 / parts, order[int(p * len(order))]
            second = 3 + part * length + p * len(order) * length % length
            assert times[index] <= second + 1e-6
            assert index + 1 == len(times) or times[index + 1] > second - 2e-3


@pytest.mark.parametrize(
    "part",
    [Part(2.0, 1.0), Part(1.0, 1.0), Part(3.0), Part(0, 4.5), Part(-1.0), Part(order=(4,), parts=4)]
    + [Part(order=(), parts=2), Part(parts=0)],
)
def test_parts_that_are_not_there(part):
    assert reason(chosen, FrameChoice(2), part) == "out_of_range"


def test_a_part_may_end_a_little_late():
    assert chosen(FrameChoice(2), Part(1.0, 3.9)).duration == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["a.mp4#t=1.2.3", "a.mp4#order=1,,2:4", "a.mp4#order=,:4"])
def test_names_that_say_no_part(name):
    assert reason(Part.of, name) == "out_of_range"


def test_names():
    assert Part.of("a#b.mp4") == Part()
    assert Part.of("a.mp4#t=12,20.5") == Part(12.0, 20.5)
    assert Part.of("a.mp4#t=12&order=2,0:4") == Part(12.0, None, (2, 0), 4)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"fps": 0}, {"fps": float("nan")}, {"pixels": -1}, {"times": (-1,)}])
def test_choices_that_are_none(wrong):
    with pytest.raises(InputError, match="expected"):
        FrameChoice(**wrong)


# ---- which frames are read -------------------------------------------------------------------------------------------


def test_frames_of_a_made_clip(tmp_path, reader):
    grey = [Image.new("RGB", (64, 48), (20 * i,) * 3) for i in range(10)]
    write_clip(tmp_path / "clip.avi", grey)
    frames = read_clip(tmp_path / "clip.avi", FrameChoice(3)).frames
    assert [frame.size for frame in frames] == [(64, 48)] * 3
    assert [round(np.asarray(frame).mean() / 20) for frame in frames] == [1, 5, 8]


@pytest.mark.parametrize("name", REAL)
def test_real_clips(shared_data, reader, name):
    total, size, seconds = REAL[name]
    path = shared_data / "videos" / name
    about, clip = probe(path), read_clip(path, FrameChoice(8))
    assert (about.count, (about.width, about.height)) == (total, size)
    assert about.duration == pytest.approx(seconds, abs=2e-3)
    assert len(clip.frames) == min(total, 8)
    assert {frame.size for frame in clip.frames} == {size}
    assert {frame.mode for frame in clip.frames} == {"RGB"}
    assert clip.times == pytest.approx(tuple(about.times[list(clip.indices)]))


@pytest.mark.parametrize(
    "name", ["flipping_a_pancake.mkv", "goldeneye-vfr-drop3.mp4", "delayed_start.mp4", "fades.mp4"]
)
def test_real_clips_equal_all_of_them_decoded(shared_data, monkeypatch, name):
    need("decord")
    path = shared_data / "videos" / name
    times, pictures = clips.decode_all(path)
    times = times - times[0]
    for count in (1, 5, 8):
        asked = (np.arange(count) + 0.5) * probe(path).duration / count
        expected = [int(np.flatnonzero(times <= second + 1e-6)[-1]) for second in asked]
        found = {}
        for name_of_reader in READERS:
            monkeypatch.setenv("MMALIGN_VIDEO_READER", name_of_reader)
            clip = read_clip(path, FrameChoice(count))
            assert list(clip.indices) == expected
            found[name_of_reader] = [np.asarray(frame).astype(int) for frame in clip.frames]
        for ours, place in zip(found["av"], expected, strict=True):
            assert np.abs(ours - pictures[place]).mean() < 1
        for ours, theirs in zip(*found.values(), strict=True):
            assert np.abs(ours - theirs).mean() < 1


@pytest.mark.parametrize("name", clips.KINDS)
def test_every_kind_of_clip_gives_the_frames_asked_for(made, reader, name):
    """Groups that refer to the one before, frames that are stored in another order, rates that change."""
    path, times = made[name]
    if reader == "decord" and name in clips.NOT_BY_DECORD:
        assert reason(read_clip, path) == clips.NOT_BY_DECORD[name]
        return
    count = len(times)
    about = probe(path)
    assert about.times == pytest.approx(times, abs=1.1e-3)
    rng = np.random.default_rng(0)
    for some in (
        [count - 1, 0, count - 1],
        list(range(count)),
        *(rng.integers(0, count, 4).tolist() for _ in range(6)),
    ):
        assert [clips.said(frame) for frame in read_indices(path, some)] == some
    for choice in (FrameChoice(5), FrameChoice(3, fps=1)):
        expected = choose(about.times, about.duration, choice).indices.tolist()
        assert [clips.said(frame) for frame in read_clip(path, choice).frames] == expected
    parts = list(stream(path, size=(48, 32), chunk=16))
    assert [len(part) for part in parts] == [16] * (count // 16) + [count % 16] * bool(count % 16)
    assert [clips.said(frame) for part in parts for frame in part] == list(range(count))


BY_INDEX = """
import sys, decord
found = decord.VideoReader(sys.argv[1], num_threads=1).get_batch([12, 24, 36, 48]).asnumpy()
sys.stdout.buffer.write(found.tobytes())
"""


@pytest.mark.parametrize("name", ["open.mp4", "hevc.mp4", "stored.mp4", "open.ts", "programme.mpg"])
def test_why_decord_is_not_asked_by_index(made, name):
    """It gives other frames than those asked for. Where it no longer does, it may be trusted with more.

    In a process of its own: it may hang.
    """
    need("decord")
    done = subprocess.run([sys.executable, "-c", BY_INDEX, made[name][0]], capture_output=True, timeout=60, check=True)
    found = np.frombuffer(done.stdout, np.uint8).reshape(4, clips.HEIGHT, clips.WIDTH, 3)
    assert [clips.said(frame) for frame in found] != [12, 24, 36, 48]


def test_only_what_is_needed_is_decoded(made, reader):
    from mmalign.media._process import decoder

    path, times = made["closed.mp4"]
    with decoder() as process:
        list(process.ask(do="probe", path=str(path)))
        before = process.decoded
        list(process.ask(do="frames", path=str(path), indices=[2, 38], size=None))
        assert process.decoded - before < 16  # of 60; groups are of 12


def test_a_late_part_of_a_late_file(shared_data):
    whole = read_clip(shared_data / "videos" / "delayed_start.mp4", FrameChoice(24))
    assert whole.times[0] == 0.0
    part = open_clip("videos/delayed_start.mp4#t=0.4,0.8", shared_data, FrameChoice(24))
    assert part.indices == tuple(range(10, 20))
    assert part.times == pytest.approx(np.arange(10) / 25)


def test_phones_that_are_held_upright(shared_data, reader):
    lying, standing = (
        read_clip(shared_data / "videos" / name, FrameChoice(1)).frames[0] for name in ("video_0.mov", "video_90.mov")
    )
    assert lying.size == standing.size[::-1]
    assert np.asarray(standing)[:, :40].mean() < np.asarray(standing).mean() + 60  # both are keyboards, keys upright


def test_a_budget_of_pixels(shared_data, reader):
    path = shared_data / "videos" / "video_90.mov"
    clip = read_clip(path, FrameChoice(3, pixels=3 * 10_000))
    width, height = clip.frames[0].size
    assert width * height <= 10_000
    assert width / height == pytest.approx(320 / 568, rel=0.02)
    whole = read_clip(path, FrameChoice(3)).frames[0].resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(whole).astype(int) - np.asarray(clip.frames[0])).mean() < 3
    assert read_clip(path, FrameChoice(3, pixels=10**9)).frames[0].size == (320, 568)


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for i in range(12):
        Image.new("RGB", (32, 24), (20 * i,) * 3).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_of_pictures_is_a_clip(folder):
    clip = read_clip(folder, FrameChoice(4))
    assert clip.indices == (1, 4, 7, 10)
    assert [np.asarray(frame)[0, 0, 0] // 20 for frame in clip.frames] == [1, 4, 7, 10]
    assert clip.times == (1.0, 4.0, 7.0, 10.0)
    assert clip.duration == probe(folder).duration == 12.0
    part = open_clip(f"{folder.name}#t=2,6", folder.parent, FrameChoice(8))
    assert part.indices == (2, 3, 4, 5)
    assert [len(part) for part in stream(folder, (16, 12), 5)] == [5, 5, 2]


def test_folders_that_are_none(folder, tmp_path):
    Image.new("RGB", (8, 8)).save(folder / "frame5.png")
    with pytest.raises(MediaError, match=r"8 x 8.*frame5\.png"):
        read_clip(folder, FrameChoice(12))
    (folder / "frame7.png").write_bytes(b"none")
    with pytest.raises(MediaError, match=r"frame7\.png"):
        read_indices(folder, [7])
    (tmp_path / "empty").mkdir()
    assert reason(read_clip, tmp_path / "empty") == "missing"


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_broken_files_say_so(shared_data, tmp_path, reader):
    whole = (shared_data / "videos" / "fades.mp4").read_bytes()
    expected = {"cut.mp4": (whole[:20_000], "truncated"), "empty.mp4": (b"", "truncated")}
    expected |= {"text.mp4": (b"no video" * 99, "unreadable"), "list.mp4": (b"ffconcat version 1.0\n", "unreadable")}
    for name, (content, word) in expected.items():
        (tmp_path / name).write_bytes(content)
        for call in (read_clip, probe, lambda path: list(stream(path))):
            assert reason(call, tmp_path / name) == word
    assert reason(read_clip, shared_data / "videos" / "corrupted.mp4") == "truncated"
    with pytest.raises(MediaError, match=r"no such file.*none\.mp4"):
        read_clip(tmp_path / "none.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(read_clip, tmp_path / "pipe.mp4") == "unreadable"
    assert reason(read_indices, shared_data / "videos" / "unordered.mov", [4]) == "out_of_range"


def test_sound_alone(tmp_path, made, reader):
    assert reason(read_clip, clips.sound(tmp_path / "sound.mp4")) == "no_video"
    (tmp_path / "sound.mp3").write_bytes(b"ID3" + bytes(500))
    assert reason(read_clip, tmp_path / "sound.mp3") == "no_video"


@pytest.mark.parametrize("name", ["closed.mp4", "closed.mkv"])
def test_files_that_are_cut_short(made, tmp_path, name):
    path, _ = made[name]
    short = tmp_path / name
    short.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert reason(read_clip, short) == "truncated"


def test_a_frame_after_one_that_is_damaged_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setenv("MMALIGN_VIDEO_READER", "av")
    path, times = made["closed.mp4"]
    data = bytearray(path.read_bytes())
    at, size = clips.packet(path, 27)
    data[at + size // 2 : at + size] = bytes(size - size // 2)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert probe(broken).count == len(times)
    refused = set()
    for place in range(len(times)):
        try:
            assert clips.said(read_indices(broken, [place])[0]) == place
        except MediaError as error:
            assert error.reason == "truncated"
            refused.add(place)
    assert 27 in refused
    assert refused <= set(range(24, 36))  # no other group of 12
    assert clips.said(read_indices(broken, [50])[0]) == 50


def test_a_name_that_is_not_plain(made, tmp_path):
    path = tmp_path / "a:b %03d 'ü'.mp4"
    shutil.copy(made["closed.mp4"][0], path)
    assert clips.said(read_indices(path, [3])[0]) == 3


# ---- what a name must not do -----------------------------------------------------------------------------------------


@pytest.fixture
def shots(tmp_path):
    """A media root with a folder of two pictures, and a picture outside of it."""
    for name in ("root/shot/0.png", "root/shot/1.png", "secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "white").save(tmp_path / name)
    return tmp_path / "root"


def test_a_folder_shows_nothing_from_outside_the_root(shots):
    (shots / "shot" / "2.png").symlink_to(shots.parent / "secret.png")
    for name in ("shot", "shot#t=0,1"):
        assert reason(open_clip, name, shots) == "outside"
    (shots / "shot" / "2.png").unlink()
    (shots / "shot" / "2.png").symlink_to(shots / "shot" / "0.png")
    assert len(open_clip("shot", shots).frames) == 3, "links inside of it are fine"


WRONG = ["#t=-1,3", "#t=0:01", "#t=nan", "#t=2&", "#&order=0:1", "#t=1order=0:1", "#order=0:1&t=1"]
ENDLESS = ["#order=0:1" + "0" * 400, "#order=" + "9" * 400 + ":10"]


@pytest.mark.parametrize("part", [*WRONG, *ENDLESS], ids=lambda part: part[:20])
def test_a_part_that_is_spelled_wrongly_says_so(shots, part):
    assert reason(open_clip, f"shot{part}", shots) == "out_of_range"


def test_odd_names_are_reasons(shots):
    assert reason(open_clip, "x" * 300 + ".mp4", shots) == "unreadable"
    Image.new("RGB", (8, 8)).save(shots / "shot" / "\u00b21.png")
    assert len(open_clip("shot", shots).frames) == 3
    assert len(open_clip("shot", shots, FrameChoice(2, fps=1e308)).frames) == 2


@pytest.mark.parametrize(
    ("sizes", "times", "indices", "problem"),
    [
        ([], (), (), "no frames"),
        ([(4, 4), (4, 6)], (0.0, 1.0), (0, 1), "differ in size: 4 x 4, 4 x 6"),
        ([(4, 4), (4, 4)], (0.0, 1.0, 2.0), (0, 1), "2 frames, 3 times, 2 indices"),
        ([(4, 4), (4, 4)], (0.0, 1.0), (0,), "2 frames, 2 times, 1 indices"),
    ],
)
def test_a_clip_has_frames_of_one_size_each_with_its_time_and_index(sizes, times, indices, problem):
    with pytest.raises(InputError, match=problem):
        Clip(tuple(Image.new("RGB", size) for size in sizes), times, indices, 3.0)
