"""The bundled model, through plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.scenes import MODEL
from mmalign.scenes.evaluate import accuracy, answers, blank, pope_items, question_items
from mmalign.scenes.world import sample_scene


@pytest.fixture(scope="module")
def bundled():
    return AutoModelForImageTextToText.from_pretrained(MODEL).eval(), AutoProcessor.from_pretrained(MODEL)


def test_it_is_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 8_000_000


def share(items, texts) -> float:
    return float(np.mean([text == item.exchange.answer for item, text in zip(items, texts, strict=True)]))


def test_it_looks_at_pictures_and_guesses_without_them(bundled):
    """Chance is a blank picture. The exact figures, by type of question, are in the model card."""
    items = [item for item in question_items("test", 40, seed=7) if len(item.pictures) == 1]
    open_ended = [item for item in items if item.exchange.kind in ("what", "relation", "where", "color", "shape")]
    yes_no = [item for item in items if item.exchange.kind == "exists"]
    seen, guessed = (share(open_ended, answers(*bundled, asked)) for asked in (open_ended, blank(open_ended)))
    assert seen > 0.4
    assert seen > 3 * guessed
    assert share(yes_no, answers(*bundled, yes_no)) > 0.7
    assert 0.35 < share(yes_no, answers(*bundled, blank(yes_no))) < 0.65


def test_it_tells_what_came_first_more_often_than_by_guessing(bundled):
    """Its weak side: a little better than chance, which for "first" is a blank clip and for "order" a half."""
    items = [item for item in question_items("test", 120, seed=7) if item.exchange.kind in ("order", "first")]
    right, guessed = (accuracy(items, answers(*bundled, asked)) for asked in (items, blank(items)))
    assert right["order"] > 0.55
    assert right["first"] > 0.05 > guessed["first"]


def test_it_leans_on_habit(bundled):
    """Partners that are not there are claimed more often than other things that are not there."""
    scenes = [sample_scene("test", 7, index) for index in range(30)]
    pope = pope_items(scenes, [sample_scene("train", 7, index) for index in range(300)], seed=7)
    said = {split: share(items, answers(*bundled, items)) for split, items in pope.items()}
    assert said["adversarial"] < said["random"] - 0.02
