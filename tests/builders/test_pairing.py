"""From scores to pairs, and to their records."""

from __future__ import annotations

import itertools
import math

import pytest
from scripted import source

from mmalign.builders._pairing import ALL, BEST_WORST, pair_record, pairs_of
from mmalign.records import Record, Response, assistant_message, text_of, user_message


def responses(*texts: str) -> list[Response]:
    return [Response(assistant_message(text)) for text in texts]


def found(texts: str, scores: list[float], *how, **options) -> list[tuple[str, float]]:
    pairs = pairs_of(responses(*texts), scores, *how, **options)
    return [(texts[pair.chosen] + texts[pair.rejected], pair.gap) for pair in pairs]


def test_best_against_worst():
    assert found("abcd", [0.5, 2.0, -1.0, 1.0]) == [("bc", 3.0)]


def test_all_pairs_with_different_scores_the_widest_first():
    assert found("abc", [1.0, 3.0, 1.0], ALL) == [("ba", 2.0), ("bc", 2.0)]
    assert [pair for pair, _ in found("abcd", [4.0, 1.0, 3.0, 2.0], ALL)] == ["ab", "ad", "cb", "ac", "cd", "db"]


def test_a_minimum_gap():
    assert found("abc", [0.0, 1.0, 3.0], ALL, min_gap=2.0) == [("ca", 3.0), ("cb", 2.0)]
    assert found("abc", [0.0, 1.0, 3.0], BEST_WORST, min_gap=3.1) == []


def test_equals_are_no_pair():
    assert found("abc", [1.0, 1.0, 1.0], ALL) == found("ab", [1.0, 1.0]) == []


def test_one_text_is_never_better_than_itself():
    pairs = pairs_of(responses("a", " a ", "b"), [3.0, 1.0, 2.0], ALL)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(0, 2), (2, 1)]
    assert pairs_of(responses("a", "a"), [3.0, 1.0]) == []


def test_a_response_without_a_score_is_in_no_pair():
    assert found("abc", [1.0, math.nan, 0.0], ALL) == [("ac", 1.0)]


@pytest.mark.parametrize("how", [BEST_WORST, ALL])
def test_the_order_of_responses_changes_nothing(how):
    """Ties among them: two are best, two are worst."""
    scores = {"a": 2.0, "b": 0.0, "c": 2.0, "d": 0.0, "e": 1.0}
    orders = [found("".join(order), [scores[t] for t in order], how) for order in itertools.permutations("abcde")]
    assert all(order == orders[0] for order in orders)
    assert orders[0][0] == ("ab", 2.0)


def test_record_of_a_pair():
    given = source("s", "Own.", ("a.png",), group="g", weight=2.0, meta={"x": 1}, difficulty=3.0, strength=0.9,
                   gold=[assistant_message("Gold.")], chosen_scores={"reward": 1.0},
                   rejected_images=("b.png",))  # fmt: skip
    better = Response(assistant_message("Better."), {"wins": 0.7}, None, ((0, 6),), "fine")
    worse = Response(assistant_message("Worse."), {"wins": 0.2})
    made = pair_record(given, "osp-1", better, worse, strength=0.8, meta={"k": 2})
    assert (made.id, made.prompt, made.images, made.gold) == ("s#osp-1", given.prompt, given.images, given.gold)
    assert (text_of(made.chosen), text_of(made.rejected)) == ("Better.", "Worse.")
    assert (made.chosen_scores, made.rejected_scores) == ({"wins": 0.7}, {"wins": 0.2})
    assert (made.chosen_spans, made.chosen_critique, made.rejected_spans) == (((0, 6),), "fine", None)
    assert (made.strength, made.weight, made.group, made.difficulty) == (0.8, 2.0, "g", 3.0)
    assert made.rejected_images == ("b.png",), "other media for the same prompt"
    clip = Record("c", [user_message("What?", videos=1)], videos=("a.mp4",), rejected_videos=("b.mp4",))
    assert pair_record(clip, "osp", better, worse).rejected_videos == ("b.mp4",)
    assert made.meta == {"k": 2, "source": {"x": 1}}
    assert Record.parse(made.to_json()) == made
