from __future__ import annotations

import pytest

from mmalign.scenes.clips import sample_clip
from mmalign.scenes.evaluate import named
from mmalign.scenes.language import (
    caption,
    clip_caption,
    direction,
    existence_questions,
    exists,
    first_question,
    moment_questions,
    order_question,
    tell,
    where_questions,
)
from mmalign.scenes.things import Clip, Draw, Event, Scene, Thing
from mmalign.scenes.world import sample_scene

CIRCLE = Thing("red", "circle", "large", 10, 32, 8)
STAR = Thing("orange", "star", "small", 32, 32, 4)
SCENE = Scene((STAR, CIRCLE), 0, 0)


def test_a_caption_names_just_the_objects_one_sentence_each():
    for index in range(50):
        scene = sample_scene("train", 0, index)
        text = caption(scene, Draw(index))
        assert set(named(text)) == set(scene.names)
        assert text.count(".") == len(scene.things)


def test_named_in_order_with_repeats():
    text = "A large red circle is on the left. Two blue squares are to the right of the Red circle, in red."
    assert named(text) == ["red circle", "blue square", "red circle"]


def test_pope_wording_and_article():
    assert exists("red circle", SCENE).question == "Is there a red circle in the image?"
    assert exists("red circle", SCENE).answer == "Yes."
    assert exists("orange circle", SCENE).question == "Is there an orange circle in the image?"
    assert exists("orange circle", SCENE).answer == "No."


def test_existence_questions_are_balanced_and_true():
    asked = [
        (scene, q)
        for i in range(200)
        for scene in [sample_scene("test", 0, i)]
        for q in existence_questions(scene, Draw(i), 4)
    ]
    assert 0.4 < sum(question.answer == "Yes." for _, question in asked) / len(asked) < 0.6
    assert all((question.answer == "Yes.") == (named(question.question)[0] in scene.names) for scene, question in asked)


@pytest.mark.parametrize(
    "question, answer",
    [
        ("Where is the red circle?", "On the left."),
        ("What is on the left?", "A red circle."),
        ("What is in the middle?", "An orange star."),
        ("What is to the right of the red circle?", "An orange star."),
        ("What is to the left of the orange star?", "A red circle."),
        ("What color is the star?", "Orange."),
        ("What shape is the red object?", "A circle."),
        ("Is the orange star large or small?", "Small."),
    ],
)
def test_what_is_where(question, answer):
    assert {asked.question: asked.answer for asked in where_questions(SCENE)}[question] == answer


def test_nothing_is_asked_that_has_two_answers():
    twice = Scene((CIRCLE, Thing("blue", "circle", "small", 12, 25, 3)), 0, 0)
    questions = [asked.question for asked in where_questions(twice)]
    assert "What is on the left?" not in questions
    assert "What color is the circle?" not in questions


def test_direction_needs_a_clear_axis():
    assert direction(CIRCLE, STAR) == "to the left of"
    assert direction(STAR, Thing("red", "square", "small", 32, 50, 4)) == "above"
    assert direction(STAR, Thing("red", "square", "small", 42, 42, 4)) is None


CLIP = Clip(
    (SCENE,) * 4,
    (Event("red circle", "appears"), Event("blue star", "hits", "red circle"), Event("red circle", "vanishes")),
)


def test_clip_caption():
    assert clip_caption(CLIP) == (
        "First the red circle appears. Then the blue star hits the red circle. Last the red circle vanishes."
    )


def test_order_and_first_questions_are_true():
    told = [tell(event) for event in CLIP.events]
    seen = set()
    for seed in range(40):
        asked = order_question(CLIP, Draw(seed))
        early, late = asked.question[len("Does ") : -1].split(" before ")
        early = early.replace("appear", "appears").replace("vanish", "vanishes").replace("hit ", "hits ")
        assert (asked.answer == "Yes.") == (told.index(early) < told.index(late))
        seen.add(asked.answer)
        asked = first_question(CLIP, Draw(seed))
        named = asked.question[len("What comes first: ") : -1].split(", or ")
        assert asked.answer.lower()[:-1] == min(named, key=told.index).lower()
    assert seen == {"Yes.", "No."}


def test_moment_questions_are_true_and_balanced():
    yes = 0
    for index in range(100):
        clip = sample_clip("test", 0, index)
        for asked in moment_questions(clip, Draw(index), 3):
            frame = clip.frames[0 if "start" in asked.question else -1]
            assert (asked.answer == "Yes.") == (named(asked.question)[0] in frame.names)
            yes += asked.answer == "Yes."
    assert 100 < yes < 200
