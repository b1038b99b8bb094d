"""Stories of the embedded world's clips, event by event."""

from __future__ import annotations

import pytest

from mmalign import benchmarks
from mmalign.benchmarks.score import table
from mmalign.records import Prediction, Question, user_message
from mmalign.scenes import clip_stories
from mmalign.scenes.clip_stories import events, questions, score
from mmalign.scenes.dataset import write_split


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
def test_stories_by_hand(said, invented, told, in_order):
    gold = "First the a moves. Then the b hits the a. Last the c appears."
    story = Question("s", [user_message("Describe the clip.")], gold=gold)
    found = score([story], [Prediction("s", said)])
    assert found["metrics"] == pytest.approx({"invented": invented, "told": told, "in_order": in_order})
    assert found["n_unparsed"] == (not said)


def test_true_stories_of_the_world(tmp_path):
    asked = list(questions(write_split(tmp_path, "test", 0, clips=5)))
    found = score(asked, [Prediction(question.id, question.gold) for question in asked])
    assert found["metrics"] == {"invented": 0.0, "told": 1.0, "in_order": 1.0}
    assert benchmarks.load(clip_stories.__file__).MAX_NEW_TOKENS > 0
    assert score(asked, [])["n_missing"] == 5 == len(asked)
    assert "invented" in table(found)
