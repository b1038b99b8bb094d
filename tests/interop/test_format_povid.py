"""POVID's conversations: a record for each answer in which the sides differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign.records import Record, assistant_message, user_message
from tests.interop.reading import convert_rows, put_pictures, says


def turns(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def row(**others: object) -> dict:
    good, bad = turns("<image>\nWhat?", "A cat."), turns("<image>\nWhat?", "A dog.")
    return {"id": "33471", "image": "33471.jpg", "conversations": good, "rejected_conversations": bad, **others}


def test_the_rejected_conversation_is_the_rejected_side(tmp_path: Path) -> None:
    put_pictures(tmp_path, "33471.jpg")
    records, drops = convert_rows(tmp_path / "povid.json", [row()], "povid")
    prompt = [user_message("What?", images=1)]
    assert records == [Record("33471", prompt, says("A cat."), says("A dog."), images=("33471.jpg",))]
    assert not drops


def test_each_answer_that_differs_is_a_record_after_the_good_ones(tmp_path: Path) -> None:
    put_pictures(tmp_path, "33471.jpg")
    good = turns("<image>\nWhat?", "A cat.", "Size?", "Small.", "Where?", "Here.")
    bad = turns("<image>\nWhat?", "A dog.", "Size?", "Small.", "Where?", "There.")
    records, _ = convert_rows(tmp_path / "a.json", [row(conversations=good, rejected_conversations=bad)], "povid")
    assert [(record.id, record.chosen, record.rejected) for record in records] == [
        ("33471", says("A cat."), says("A dog.")),
        ("33471#1", says("Here."), says("There.")),
    ]
    first = [user_message("What?", images=1), assistant_message("A cat.")]
    assert records[1].prompt == [*first, user_message("Size?"), assistant_message("Small."), user_message("Where?")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected_conversations": turns("<image>\nWho?", "A dog.")}, "prompts_differ"),
        ({"rejected_conversations": turns("<image>\nWhat?", "A cat.")}, "equal"),
        ({"rejected_conversations": turns("<image>\nWhat?", "A dog.", "Who?", "A man.")}, "turns"),
        ({"rejected_conversations": None}, "turns"),
        ({"conversations": turns("a"), "rejected_conversations": turns("a")}, "turns"),
        ({"rejected_conversations": turns("<image>\nWhat?", " ")}, "no_answer"),
        ({"image": "../33471.jpg"}, "outside"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict, reason: str) -> None:
    put_pictures(tmp_path, "33471.jpg")
    records, drops = convert_rows(tmp_path / "a.json", [row(), row(**change), ["no object"]], "povid")
    assert len(records) == 1 and drops == {"a.json:2": reason, "a.json:3": "invalid"}
