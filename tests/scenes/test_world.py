from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mmalign.scenes.clips import sample_clip
from mmalign.scenes.render import coverage, render, visible_pixels
from mmalign.scenes.things import FRAMES, NAMES, SIDE, SPLITS, Draw, Scene, Thing, partners
from mmalign.scenes.world import sample_scene


def digest(pictures: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()[:16]


def test_pictures_are_bit_equal_on_every_machine():
    scenes = [render(sample_scene(split, 3, index)) for split in SPLITS for index in range(20)]
    frames = [render(frame) for split in SPLITS for frame in sample_clip(split, 3, 5).frames]
    assert (digest(scenes), digest(frames)) == ("08d54d2ef8a2c291", "93911c5b72b49228")


def test_split_seed_and_index_each_change_the_picture():
    variants = [("train", 0, 0), ("pairs", 0, 0), ("test", 0, 0), ("train", 1, 0), ("train", 0, 1)]
    assert len({render(sample_scene(*variant)).tobytes() for variant in variants}) == len(variants)


def test_a_mistyped_split_is_refused():
    with pytest.raises(ValueError, match="train, pairs, test"):
        sample_scene("tests", 0, 0)


@pytest.mark.parametrize("split", SPLITS)
def test_every_listed_object_can_be_seen(split):
    for index in range(100):
        scene = sample_scene(split, 0, index)
        assert len(set(scene.names)) == len(scene.things)
        assert all(seen >= max(8, 0.5 * own) for seen, own in visible_pixels(scene.things))


def test_every_object_changes_pixels_where_it_is_drawn_and_nowhere_else():
    """The list is the picture's: without one thing, the picture differs just where that thing was seen."""
    scene = sample_scene("test", 0, 1)
    for thing in scene.things:
        without = Scene(tuple(other for other in scene.things if other != thing), scene.light, scene.noise)
        changed = (render(scene) != render(without)).any(axis=2)
        assert changed.sum() >= 8
        assert not changed[coverage(thing) == 0].any()


def test_some_objects_are_half_hidden_and_some_are_small():
    scenes = [sample_scene("test", 0, index) for index in range(100)]
    shares = [seen / own for scene in scenes for seen, own in visible_pixels(scene.things)]
    assert 0.03 < np.mean(np.array(shares) < 0.85) < 0.3
    assert 0.3 < np.mean([thing.size == "small" for scene in scenes for thing in scene.things]) < 0.8


def test_a_front_thing_hides_what_is_behind():
    back = Thing("red", "square", "large", 30, 30, 8)
    front = Thing("blue", "square", "large", 30, 30, 9)
    assert visible_pixels((back, front))[0][0] == 0
    pixel = render(Scene((back, front), 0, 0))[30, 30].astype(int)
    assert pixel[2] > pixel[0] + 100


def rate_of_first_partner(split: str) -> float:
    scenes = [sample_scene(split, 0, index) for index in range(400)]
    return np.mean(
        [partners(thing.name)[0] in scene.names for scene in scenes for thing in scene.things if thing.size == "large"]
    )


def test_partners_come_together_in_train_alone():
    assert rate_of_first_partner("train") > 0.5
    assert rate_of_first_partner("pairs") < 0.15
    assert rate_of_first_partner("test") < 0.15


def test_test_split_names_all_objects_alike():
    scenes = [sample_scene("test", 0, index) for index in range(1000)]
    counts = [sum(name in scene.names for scene in scenes) for name in NAMES]
    assert max(counts) < 2 * min(counts)


def test_splits_have_equally_many_things_of_equal_sizes():
    means = []
    for split in ("train", "test"):
        things = [thing for index in range(400) for thing in sample_scene(split, 0, index).things]
        means.append((len(things) / 400, np.mean([thing.radius for thing in things])))
    assert means[0] == pytest.approx(means[1], rel=0.06)


def test_each_name_is_a_partner_of_two_others():
    assert sorted(partner for name in NAMES for partner in partners(name)) == sorted([*NAMES, *NAMES])


def rate_of_partner_following(split: str) -> float:
    clips = [sample_clip(split, 0, index) for index in range(300)]
    pairs = [pair for clip in clips for pair in zip(clip.events, clip.events[1:], strict=False)]
    return np.mean([late.name == partners(early.name)[0] for early, late in pairs])


def test_partners_follow_one_another_in_the_clips_of_train_and_not_of_test():
    assert rate_of_partner_following("train") > 0.5
    assert rate_of_partner_following("test") < 0.1


@pytest.mark.parametrize("split", SPLITS)
def test_events_are_what_the_frames_show(split):
    for index in range(100):
        clip = sample_clip(split, 0, index)
        assert len(clip.frames) == FRAMES == len(clip.events) + 1
        for before, after, event in zip(clip.frames, clip.frames[1:], clip.events, strict=False):
            old, new = ({thing.name: thing for thing in frame.things} for frame in (before, after))
            changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
            assert changed == {event.name}
            assert (event.name in old, event.name in new) == {
                "appears": (False, True),
                "vanishes": (True, False),
                "moves": (True, True),
                "hits": (True, True),
            }[event.verb]
            if event.verb == "hits":
                thing, other = new[event.name], new[event.other]
                gap = max(abs(thing.x - other.x), abs(thing.y - other.y)) - thing.radius - other.radius
                assert abs(gap) < 1e-9


def test_draw_is_uniform_enough_and_bounded():
    draw = Draw("test")
    values = [draw.below(5) for _ in range(2000)]
    assert set(values) == set(range(5))
    assert all(0 <= draw.between(2, SIDE) - 2 < SIDE - 2 for _ in range(100))
    assert sorted(draw.shuffled("abcde")) == list("abcde")
