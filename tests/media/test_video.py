"""Frames of clips."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmalign.media import FrameChoice, MediaError, read_clip
from mmalign.media.video import frame_places
from tests.tiny import write_clip

FRAMES = {
    "counter.mp4": (30, (1920, 1080)),
    "fades.mp4": (250, (480, 320)),
    "shots_3min.mp4": (5301, (160, 90)),
    "unordered.mov": (4, (50, 50)),
}


@pytest.mark.parametrize(("total", "count", "expected"), [(10, 2, [2, 7]), (8, 8, range(8)), (3, 8, range(3))])
def test_places(total, count, expected):
    assert frame_places(total, count).tolist() == list(expected)


def test_frames_of_a_made_clip(tmp_path):
    grey = [Image.new("RGB", (64, 48), (20 * i,) * 3) for i in range(10)]
    write_clip(tmp_path / "clip.avi", grey)
    frames = read_clip(tmp_path / "clip.avi", FrameChoice(3)).frames
    assert [frame.size for frame in frames] == [(64, 48)] * 3
    assert [round(np.asarray(frame).mean() / 20) for frame in frames] == [1, 5, 8]


@pytest.mark.parametrize("name", FRAMES)
def test_real_clips(shared_data, name):
    total, size = FRAMES[name]
    frames = read_clip(shared_data / "videos" / name, FrameChoice(8)).frames
    assert len(frames) == min(total, 8)
    assert {frame.size for frame in frames} == {size}
    assert {frame.mode for frame in frames} == {"RGB"}


def test_the_frames_are_those_of_the_places(shared_data):
    from decord import VideoReader

    path = shared_data / "videos" / "goldeneye-vfr-drop3.mp4"
    reader = VideoReader(str(path))
    for frame, place in zip(read_clip(path, FrameChoice(4)).frames, frame_places(len(reader), 4), strict=True):
        assert (np.asarray(frame) == reader[int(place)].asnumpy()).all()


def test_broken_clips_say_so(shared_data, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((shared_data / "videos" / "fades.mp4").read_bytes()[:20_000])
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for path in (shared_data / "videos" / "corrupted.mp4", cut, text, empty):
        with pytest.raises(MediaError) as caught:
            read_clip(path, FrameChoice(4))
        assert caught.value.reason == "truncated"
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="no such file"):
        read_clip(tmp_path / "none.mp4", FrameChoice(4))
