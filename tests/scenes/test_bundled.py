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
    items = [item for item in question_items("test", 30, seed=7) if len(item.pictures) == 1]
    open_ended = [item for item in items if item.exchange.kind in ("what", "relation", "where", "color", "shape")][:60]
    yes_no = [item for item in items if item.exchange.kind == "exists"][:60]
    assert share(open_ended, answers(*bundled, open_ended)) > 0.6
    assert share(open_ended, answers(*bundled, blank(open_ended))) < 0.35
    assert share(yes_no, answers(*bundled, yes_no)) > 0.7
    assert 0.3 < share(yes_no, answers(*bundled, blank(yes_no))) < 0.7


def test_it_tells_what_came_first(bundled):
    items = [item for item in question_items("test", 60, seed=7) if item.exchange.kind in ("order", "first")][:60]
    assert accuracy(items, answers(*bundled, items))["order"] > 0.6


def test_it_leans_on_habit(bundled):
    """Partners that are not there are claimed more often than other things that are not there."""
    scenes = [sample_scene("test", 7, index) for index in range(30)]
    pope = pope_items(scenes, [sample_scene("train", 7, index) for index in range(300)], seed=7)
    said = {split: share(items, answers(*bundled, items)) for split, items in pope.items()}
    assert said["adversarial"] < said["random"] - 0.02
