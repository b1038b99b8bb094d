"""What the embedded world asks about its clips."""

from __future__ import annotations

import pytest

from mmalign import benchmarks
from mmalign.benchmarks.score import table
from mmalign.records import Prediction
from mmalign.scenes import clip_questions
from mmalign.scenes.clip_questions import KINDS, questions, score
from mmalign.scenes.dataset import write_split


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return list(questions(write_split(tmp_path_factory.mktemp("world"), "test", 0, clips=6)))


def answered(asked, change=lambda question: question.gold):
    return score(asked, [Prediction(question.id, change(question)) for question in asked])


def test_the_truth_is_right(asked):
    found = answered(asked)
    assert found["metrics"] == {"right": 1.0}
    assert found["groups"] == {kind: {"right": 1.0} for kind in KINDS}
    assert found["n_items"] == len(asked) and found["n_missing"] == 0
    assert all(question.videos and not question.images for question in asked)


def test_an_answer_counts_for_its_kind_alone(asked):
    found = answered(asked, lambda question: "No." if question.meta["type"] == "order" else question.gold)
    orders = [question.gold == "No." for question in asked if question.meta["type"] == "order"]
    assert found["groups"]["order"]["right"] == sum(orders) / len(orders) < 1
    assert all(found["groups"][kind]["right"] == 1 for kind in KINDS if kind != "order")


def test_it_is_a_benchmark_like_any_other(asked):
    assert benchmarks.load(clip_questions.__file__).MAX_NEW_TOKENS > 0
    assert score(asked, [])["n_missing"] == len(asked)
    assert "order" in table(answered(asked))
