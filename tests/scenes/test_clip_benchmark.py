"""What the embedded world asks about its clips."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmalign import benchmarks
from mmalign.records import Prediction
from mmalign.scenes import clip_benchmark
from mmalign.scenes.clip_benchmark import KINDS, events, questions, score
from mmalign.scenes.dataset import write_split


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return list(questions(write_split(tmp_path_factory.mktemp("world"), "test", 0, clips=6)))


def answered(asked, change=lambda question: question.gold):
    return score(asked, [Prediction(question.id, change(question)) for question in asked])


def test_the_truth_is_right(asked):
    found = answered(asked)
    assert found["metrics"] == {"right": 1.0, "invented": 0.0, "told": 1.0, "in_order": 1.0}
    assert found["groups"].keys() == set(KINDS)
    assert found["n_items"] == len(asked) and found["n_missing"] == found["n_unparsed"] == 0
    assert all(question.videos and not question.images for question in asked)


def test_a_story_is_read_event_by_event():
    assert events("First the red star moves. Then the blue star hits the red star.") == [
        "the red star moves",
        "the blue star hits the red star",
    ]
    assert events("") == []


@pytest.mark.parametrize(
    ("said", "invented", "told", "in_order"),
    [
        ("First the a moves. Then the b hits the a. Last the c appears.", 0, 1, 1),
        ("First the c appears. Then the b hits the a. Last the a moves.", 0, 1, 0),
        ("First the b hits the a. Then the a moves. Last the c appears.", 0, 1, 2 / 3),
        ("First the a moves. Then the d moves. Last the c vanishes.", 2 / 3, 1 / 3, 0),
        ("First the a moves. Then the a moves. Last the c appears.", 0, 2 / 3, 0),
        ("", 0, 0, 0),
    ],
)
def test_stories_by_hand(asked, said, invented, told, in_order):
    story = next(question for question in asked if question.meta["type"] == "story")
    story = replace(story, gold="First the a moves. Then the b hits the a. Last the c appears.")
    found = score([story], [Prediction(story.id, said)])["metrics"]
    assert found == pytest.approx({"right": 0, "invented": invented, "told": told, "in_order": in_order})


def test_an_answer_counts_for_its_kind_alone(asked):
    found = answered(asked, lambda question: "No." if question.meta["type"] == "order" else question.gold)
    orders = [question.gold == "No." for question in asked if question.meta["type"] == "order"]
    assert found["groups"]["order"]["right"] == sum(orders) / len(orders) < 1
    assert all(found["groups"][kind]["right"] == 1 for kind in KINDS if kind != "order")


def test_it_is_a_benchmark_like_any_other(asked):
    assert benchmarks.load(clip_benchmark.__file__).MAX_NEW_TOKENS > 0
    assert score(asked, [])["n_missing"] == len(asked)
