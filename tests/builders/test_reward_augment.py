"""Each scored pair becomes two that ask for different scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scripted import source

from mmalign.builders import Drop, Unit, load, main
from mmalign.builders.reward_augment import printed, swapped, with_system
from mmalign.records import (
    InputError,
    Record,
    assistant_message,
    read_jsonl,
    text_of,
    user_message,
    write_jsonl,
)


def pair(high: float = 8.0, low: float = 3.5, **fields: object) -> Record:
    return source(
        "s", "A cat.", rejected=[assistant_message("A big dog.")], chosen_scores={"reward": high},
        rejected_scores={"reward": low}, **fields,
    )  # fmt: skip


def made(record: Record, **options: object) -> list[Record] | Drop:
    [(name, result)] = load("reward_augment", **options)(Unit((record,), Path()), None)
    assert name == record.id
    return result


def asked(record: Record) -> str:
    assert record.prompt[0]["role"] == "system"
    return text_of(record.prompt[:1])


def test_two_pairs_that_ask_for_either_score():
    given = pair(chosen_spans=((0, 1),), rejected_critique="Wrong.", strength=0.9, weight=2.0, meta={"x": 1})
    first, second = made(given)
    assert (first.id, second.id) == ("s#chosen", "s#rejected")
    assert asked(first) == "Give an answer that is rated 8. Higher is better."
    assert asked(second) == "Give an answer that is rated 3.5. Higher is better."
    assert first.prompt[1:] == second.prompt[1:] == given.prompt
    assert (text_of(first.chosen), text_of(first.rejected)) == ("A cat.", "A big dog.")
    assert (text_of(second.chosen), text_of(second.rejected)) == ("A big dog.", "A cat.")
    assert (first.chosen_spans, first.rejected_spans) == (((0, 1),), None)
    assert (second.chosen_spans, second.rejected_spans) == (None, ((0, 1),))
    assert second.chosen_scores == {"reward": 3.5} and second.rejected_scores == {"reward": 8.0}
    assert second.chosen_critique == "Wrong." and second.rejected_critique is None
    for record in (first, second):
        assert Record.parse(record.to_json()) == record
        assert (record.images, record.weight, record.strength) == (given.images, 2.0, 0.9)
    assert first.meta == {"target": "8", "target_of": "chosen", "source": {"x": 1}}
    assert second.meta["target"] == "3.5" and load("reward_augment").outcome(second) == "asks for the score of rejected"


def test_no_answer_is_lost_and_none_is_only_ever_rejected():
    both = made(pair())
    sides = [Counter(text_of(getattr(record, side)) for record in both) for side in ("chosen", "rejected")]
    assert sides[0] == sides[1] == Counter(["A cat.", "A big dog."])


def test_a_chosen_answer_with_the_lower_score_still_goes_with_its_own():
    first, second = made(pair(2.0, 7.0))
    assert "rated 2." in asked(first) and text_of(first.chosen) == "A cat."
    assert "rated 7." in asked(second) and text_of(second.chosen) == "A big dog."


def test_swapping_twice_is_nothing():
    record = pair(chosen_spans=((0, 1),), chosen_critique="Right.")
    assert swapped(swapped(record)) == record != swapped(record)


@pytest.mark.parametrize("score, decimals, text", [
    (7.0, 2, "7"), (7.25, 2, "7.25"), (7.5, 2, "7.5"), (10.0, 2, "10"), (100.0, 0, "100"), (7.249, 1, "7.2"),
    (-0.001, 2, "0"), (-1.5, 2, "-1.5"), (1e-7, 2, "0"), (1e15, 2, "1000000000000000")])  # fmt: skip
def test_scores_are_printed_as_people_write_them(score, decimals, text):
    assert printed(score, decimals) == text


def test_system_messages():
    turns = [user_message("What is here?", images=1), assistant_message("A cat."), user_message("And what else?")]
    added = with_system(turns, "x")
    assert [message["role"] for message in added] == ["system", "user", "assistant", "user"] and added[1:] == turns
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert text_of(with_system([system, *turns], "x")[:1]) == "Be brief.\n\nx"
    assert with_system([system, *turns], "x")[1:] == turns
    assert text_of([system]) == "Be brief.", "the source's own is as it was"
    first, _ = made(pair(), system="Aim at {score} of {ten}, no less than {score}.")
    assert asked(first) == "Aim at 8 of {ten}, no less than 8."


def test_rescaling():
    first, second = made(pair(1.0, -0.5), score_min=-1.0, score_max=1.0)
    assert "rated 10." in asked(first) and "rated 3.25." in asked(second)
    assert "rated 1." in asked(made(pair(1.0, -1.0), score_min=-1.0, score_max=1.0)[1])
    assert made(pair(1.5, 0.0), score_min=-1.0, score_max=1.0) == Drop("out_of_range", "1.5 and 0")


def test_another_score():
    record = pair(chosen_critique="Right.")
    record.chosen_scores["help"], record.rejected_scores["help"] = 1.0, 5.0
    assert "rated 1." in asked(made(record, score="help")[0])


def test_what_was_judged_by_the_plain_prompt_is_left_behind():
    gold = [assistant_message("A grey cat.")]
    assert all(record.gold is None and record.responses is None for record in made(pair(gold=gold)))


def test_drops():
    assert made(source("s", "A cat.")) == Drop("no_pair")
    assert made(pair(3.0, 3.0)) == Drop("tie", "both 3")
    assert made(pair(3.001, 3.0)) == Drop("tie", "both 3"), "the same words cannot ask for two things"
    assert isinstance(made(pair(3.001, 3.0), decimals=3), list)
    assert made(pair(), score="help") == Drop("no_score", "no help of chosen")
    assert made(pair(rejected_images=("b.png",))).reason == "other_context"
    assert made(pair(rejected_prompt=[user_message("Who?", images=1)])).reason == "other_context"


@pytest.mark.parametrize("options", [
    {"system": "Be good."}, {"score_min": 1.0}, {"score_min": 1.0, "score_max": 1.0}, {"decimals": -1}])  # fmt: skip
def test_options_out_of_range(options: dict):
    with pytest.raises(InputError) as caught:
        load("reward_augment", **options)
    assert caught.value.field == next(iter(options))
    with pytest.raises(InputError):
        load("reward_augment", score_max=1.0)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_jsonl(tmp_path / "pairs.jsonl", [pair()])
    arguments = ["--data", f"{tmp_path}/pairs.jsonl", "--output", f"{tmp_path}/two.jsonl"]
    assert main("reward_augment", [*arguments, "--score_min", "0", "--score_max", "10"]) == 0
    said = capsys.readouterr().out
    assert "2 records from 1 of 1 sources" in said and "asks for the score of rejected" in said
    targets = [record.meta["target"] for record in read_jsonl(tmp_path / "two.jsonl", Record.parse)]
    assert targets == ["8.2", "4.15"]
