"""What a correction changed is marked, and what is no correction is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import run, source

from mmalign.builders import Drop, load, main
from mmalign.records import InputError, Record, assistant_message, read_jsonl, text_of, write_jsonl

WRONG = "A man in a red shirt holds a dog. A cat sits beside him on the grass."


def pair(chosen: str, rejected: str = WRONG, **fields: object) -> Record:
    return source("s", chosen, rejected=[assistant_message(rejected)], **fields)


def made(record: Record, **options: object) -> Record | Drop:
    return run(load("corrections", **options), None, Path(), record)["s"]


def marked(record: Record | Drop) -> tuple[list[str], list[str]]:
    assert isinstance(record, Record) and Record.parse(record.to_json()) == record
    sides = (record.chosen, record.chosen_spans), (record.rejected, record.rejected_spans)
    return tuple([text_of(messages)[start:end] for start, end in spans] for messages, spans in sides)


def test_what_was_changed_is_marked():
    corrected = made(pair("A man in a blue shirt holds a dog. A cat sits beside him."))
    assert marked(corrected) == (["blue"], ["red", "on the grass."])
    assert corrected.meta == {"changed": pytest.approx(5 / 31, abs=1e-6), "spans_by": "differences"}


def test_the_rest_of_the_record_stays():
    given = pair(
        "A man.", "A dog.", meta={"x": 1}, chosen_scores={"reward": 2.0}, weight=3.0, rejected_images=("b.png",)
    )
    found = made(given)
    assert found.id == "s#marked" and found.meta["source"] == {"x": 1}
    for name in ("prompt", "chosen", "rejected", "images", "rejected_images", "chosen_scores", "weight"):
        assert getattr(found, name) == getattr(given, name)


def test_granularity():
    chosen = "A woman in a blue shirt holds a dog. A cat sits beside him on the grass."
    assert marked(made(pair(chosen))) == (["woman", "blue"], ["man", "red"])
    assert marked(made(pair(chosen), granularity="segment")) == (["woman in a blue"], ["man in a red"])
    assert marked(made(pair(chosen), granularity="segment", join_below=2)) == (["woman", "blue"], ["man", "red"])


def test_what_only_one_side_says():
    chosen = "A man in a shirt holds a dog. A cat sits beside him on the grass."
    assert marked(made(pair(chosen))) == ([], ["red"])
    assert marked(made(pair(chosen), both_sides=True)) == (["shirt"], ["red"])
    outcome = load("corrections").outcome
    assert outcome(made(pair(chosen))) == "marked: rejected"
    assert outcome(made(pair(chosen), both_sides=True)) == "marked: chosen and rejected"


def test_punctuation_and_case():
    chosen = "a man, in a red shirt, holds a dog; a cat sits beside him on the grass"
    assert made(pair(chosen)) == Drop("same_words", "0% of the words changed")
    assert marked(made(pair(chosen), exact=True))[0] == ["a man,", "shirt,", "dog; a", "grass"]


def test_scripts_without_spaces():
    assert marked(made(pair("草地上有一只猫。", "草地上有一只狗。"))) == (["猫。"], ["狗。"])


def test_how_much_may_change():
    assert made(pair("Nothing like that is to be seen.")).reason == "too_much_changed"
    assert isinstance(made(pair("Nothing like that is to be seen."), max_share=1.0), Record)
    small = pair("A man in a blue shirt holds a dog. A cat sits beside him on the grass.")
    assert made(small).meta["changed"] == pytest.approx(2 / 34, abs=1e-6)
    assert isinstance(made(small, min_share=2 / 34, max_share=2 / 34), Record), "the limits are inside"
    assert made(small, min_share=0.07) == Drop("too_little_changed", "6% of the words changed")


def test_spans_of_the_source_stay():
    by_hand = made(pair("Nothing like that is to be seen.", rejected_spans=((0, 5),)))
    assert by_hand.rejected_spans == ((0, 5),) and by_hand.chosen_spans is None
    assert by_hand.meta["spans_by"] == "source" and load("corrections").outcome(by_hand) == "spans of the source"


def test_no_pair():
    assert run(load("corrections"), None, Path(), source("s", "A cat."))["s"] == Drop("no_pair")


@pytest.mark.parametrize("options", [
    {"granularity": "token"}, {"join_below": 0}, {"min_share": -0.1}, {"max_share": 1.5}, {"min_share": 0.6},
])  # fmt: skip
def test_options_out_of_range(options: dict):
    with pytest.raises(InputError) as caught:
        load("corrections", **options)
    assert caught.value.field == next(iter(options))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_jsonl(
        tmp_path / "pairs.jsonl", [pair("A man in a blue shirt holds a dog. A cat sits beside him on the grass.")]
    )
    assert main("corrections", ["--data", f"{tmp_path}/pairs.jsonl", "--output", f"{tmp_path}/marked.jsonl"]) == 0
    assert "marked: chosen and rejected" in capsys.readouterr().out
    [record] = read_jsonl(tmp_path / "marked.jsonl", Record.parse)
    assert record.meta["builder"] == "corrections" and record.meta["model"] is None
