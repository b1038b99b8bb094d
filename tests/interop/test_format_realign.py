"""Re-Align's pairs: the retrieved picture is the visual negative."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign.records import Record, user_message
from tests.interop.reading import convert_rows, put_pictures, says


def turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def row(**others: object) -> dict:
    good, bad = turns("<image>\nWhat?", "A cat."), turns("<image>\nWhat?", "A dog.")
    return {"image": "1.jpg", "retrieved_image": "2.jpg", "chosen": good, "rejected": bad, **others}


def test_retrieved_pictures_are_rejected_ones(tmp_path: Path) -> None:
    put_pictures(tmp_path / "train2014", "1.jpg", "2.jpg")
    rows = [row(), row(retrieved_image=None)]
    records, drops = convert_rows(tmp_path / "pref_data.json", rows, "realign", media_root=tmp_path / "train2014")
    prompt = [user_message("What?", images=1)]
    sides = {"chosen": says("A cat."), "rejected": says("A dog.")}
    assert records == [
        Record("pref_data.json:1", prompt, **sides, images=("1.jpg",), rejected_images=("2.jpg",)),
        Record("pref_data.json:2", prompt, **sides, images=("1.jpg",)),
    ]
    assert not drops


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": turns("<image>\nWho?", "A dog.")}, "prompts_differ"),
        ({"rejected": turns("<image>\nWhat?", "A cat.")}, "equal"),
        ({"rejected": turns("<image>\nWhat?", "A dog.")[:1]}, "turns"),
        ({"chosen": turns("<image>\nWhat?", "A cat.")[::-1]}, "turns"),
        ({"chosen": "A cat."}, "turns"),
        ({"chosen": [{"role": "critic", "content": "a"}]}, "turns"),
        ({"image": None}, "no_media"),
        ({"retrieved_image": "gone.jpg"}, "missing"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict, reason: str) -> None:
    put_pictures(tmp_path, "1.jpg", "2.jpg")
    records, drops = convert_rows(tmp_path / "a.json", [row(), row(**change)], "realign")
    assert len(records) == 1 and drops == {"a.json:2": reason}
