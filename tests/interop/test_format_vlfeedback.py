"""VLFeedback: rated answers become a ranked list."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign.records import Record, Response, assistant_message, user_message
from tests.interop.reading import convert_rows, picture

IMAGE = {"bytes": picture(), "path": None}


def completion(text: str | None, *ratings: object, model: str = "m") -> dict:
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    said = {a: {"Rating": r, "Rationale": f"On {a[0]}."} for a, r in zip(aspects, ratings, strict=True)}
    return {"model": model, "response": text, "annotations": said}


def row(*completions: dict, **others: object) -> dict:
    return {"id": "llava-1", "image": IMAGE, "prompt": "What?", "completions": list(completions), **others}


CRITIQUE = "Helpfulness: On H.\nVisual Faithfulness: On V.\nEthical Considerations: On E."


def test_ratings_are_scores_and_rationales_the_critique(tmp_path: Path) -> None:
    rows = [row(completion("A cat.", "5", "4", "3"), completion("A dog.", "1", "N/A", "5", model="n"))]
    [record], drops = convert_rows(tmp_path / "a.parquet", rows, "vlfeedback")
    first = {"helpfulness": 5.0, "visual_faithfulness": 4.0, "ethical_considerations": 3.0, "reward": 4.0}
    second = {"helpfulness": 1.0, "ethical_considerations": 5.0}
    assert record == Record(
        "llava-1",
        [user_message("What?", images=1)],
        responses=(
            Response(assistant_message("A cat."), first, critique=CRITIQUE),
            Response(assistant_message("A dog."), second, critique=CRITIQUE),
        ),
        images=record.images,
        meta={"models": ["m", "n"]},
    )
    assert not drops


def test_columns_of_lists_are_the_same(tmp_path: Path) -> None:
    one, two = completion("A cat.", "5", "5", "5"), completion("A dog.", "1", "1", "1")
    columns = {name: [one[name], two[name]] for name in one}
    records, _ = convert_rows(tmp_path / "a.parquet", [row(completions=columns)], "vlfeedback")
    [same], _ = convert_rows(tmp_path / "a.parquet", [row(one, two)], "vlfeedback")
    assert records == [same] and len(same.responses) == 2


def test_answers_without_text_or_rating_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    good = [completion("A cat.", 5, 5, 5), completion("A dog.", 1, "nan", None)]
    bad = [completion("", "5", "5", "5", model="x"), completion("A cow.", "N/A", "N/A", "?", model="y")]
    [record], _ = convert_rows(tmp_path / "a.jsonl", [row(*good, *bad, image="a.png")], "vlfeedback")
    assert [set(response.scores) for response in record.responses][1] == {"helpfulness"}
    assert record.meta == {"models": ["m", "m"], "left_out": ["x", "y"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"completions": []}, "too_few"),
        ({"completions": [completion("A cat.", "5", "5", "5"), completion(None, "5", "5", "5")]}, "too_few"),
        ({"completions": "A cat."}, "invalid"),
        ({"completions": ["A cat."]}, "invalid"),
        ({"completions": [{"response": "A cat.", "annotations": [1]}]}, "invalid"),
        ({"prompt": None}, "no_prompt"),
        ({"image": None}, "no_media"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    good = row(completion("A cat.", "5", "5", "5"), completion("A dog.", "1", "1", "1"), image="a.png")
    records, drops = convert_rows(tmp_path / "a.jsonl", [good, {**good, **change}], "vlfeedback")
    assert len(records) == 1 and drops == {"a.jsonl:2": reason}
