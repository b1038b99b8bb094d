"""The bundled model, through plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.scenes import MODEL
from mmalign.scenes.evaluate import Item, accuracy, answers, blank, chair_figures, pope_items, question_items
from mmalign.scenes.language import CAPTION_PROMPTS, Exchange
from mmalign.scenes.render import render
from mmalign.scenes.world import sample_scene


@pytest.fixture(scope="module")
def bundled():
    return AutoModelForImageTextToText.from_pretrained(MODEL).eval(), AutoProcessor.from_pretrained(MODEL)


def test_it_is_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 8_000_000


def share(items, texts) -> float:
    return float(np.mean([text == item.exchange.answer for item, text in zip(items, texts, strict=True)]))


@pytest.fixture(scope="module")
def right(bundled):
    """Share of right answers by kind of question, with pictures and with blank ones."""
    items = question_items("test", 80, seed=7)
    return accuracy(items, answers(*bundled, items)), accuracy(items, answers(*bundled, blank(items)))


def test_it_looks_at_pictures_and_guesses_without_them(right):
    """The exact figures are in the model card."""
    seen, guessed = right
    for kind in ("what", "where", "shape", "relation"):
        assert seen[kind] > 0.5, kind
        assert guessed[kind] < 0.35, kind
    for kind in ("exists", "size"):
        assert seen[kind] > 0.85, kind
        assert 0.3 < guessed[kind] < 0.7, kind


def test_it_tells_what_came_first(right):
    """Chance is a half for each: "order" is a yes/no question, and "first" names the two events to choose from."""
    seen, guessed = right
    assert seen["order"] > 0.7
    assert seen["first"] > 0.7
    assert seen["moment"] > 0.8
    assert seen["event"] > 0.5
    assert guessed["event"] < 0.1


def test_it_leans_on_habit(bundled):
    """Partners that are not there are claimed more often than other things that are not there."""
    scenes = [sample_scene("test", 7, index) for index in range(200)]
    pope = pope_items(scenes, [sample_scene("train", 7, index) for index in range(300)], seed=7)
    said = {split: share(items, answers(*bundled, items)) for split, items in pope.items()}
    assert said["adversarial"] < said["random"] - 0.01


def test_its_captions_name_things_that_are_not_there(bundled):
    """Most of what is there is named; some is not there, and that is mostly what habit suggests."""
    scenes = [sample_scene("test", 7, index) for index in range(60)]
    asked = [Item(Exchange("caption", CAPTION_PROMPTS[0], ""), (render(scene),)) for scene in scenes]
    figures = chair_figures(scenes, answers(*bundled, asked, max_new_tokens=128))
    assert 0.03 < figures["chair_i"] < 0.2
    assert figures["recall"] > 0.75
    assert figures["partners"] > 2 * figures["partner_chance"]
