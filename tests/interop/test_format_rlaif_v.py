"""RLAIF-V as it lies on the hub: parquet shards with pictures inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.interop import convert
from mmalign.records import InputError, Record, read_jsonl, user_message
from tests.interop.reading import convert_rows, picture, put_pictures, put_rows, says

PROMPT = [user_message("What is here?", images=1)]


def row(idx: int, image: object, **others: object) -> dict:
    return {
        "ds_name": "RLAIF-V", "idx": idx, "question": "What is here?", "chosen": "A cat.", "rejected": "A dog.",
        "image": image, "image_path": f"coco/{idx}.jpg", "origin_dataset": "COCO", "origin_split": "{}", **others,
    }  # fmt: skip


def test_parquet_with_pictures_inside(tmp_path: Path) -> None:
    rows = [
        row(3, {"bytes": picture("red", "JPEG"), "path": "3.jpg"}),
        row(3, {"bytes": picture("blue"), "path": None}),
    ]
    records, drops = convert_rows(tmp_path / "a.parquet", rows, "rlaif_v")
    names = [record.images[0] for record in records]
    meta = {"origin_dataset": "COCO", "origin_split": "{}", "image_path": "coco/3.jpg"}
    assert records == [
        Record(name, PROMPT, says("A cat."), says("A dog."), images=(image,), meta=meta)
        for name, image in zip(["RLAIF-V-3", "RLAIF-V-3#1"], names, strict=True)
    ]
    assert (tmp_path / names[0]).read_bytes() == rows[0]["image"]["bytes"]
    assert names[0].startswith("media/") and names[0].endswith(".jpg") and names[1].endswith(".png")
    assert not drops


def test_a_thousand_rows_and_one_broken_picture_are_999_records(tmp_path: Path) -> None:
    kinds = [picture(color) for color in ("red", "blue", "green")]
    rows = [row(i, {"bytes": kinds[i % 3], "path": f"{i}.png"}) for i in range(1000)]
    rows[417]["image"]["bytes"] = kinds[0][:-30]
    folder = tmp_path / "shards"
    put_rows(folder / "train-00001.parquet", rows[600:])
    put_rows(folder / "train-00000.parquet", rows[:600])
    (folder / "README.json").write_text("[]")
    output = tmp_path / "pairs.jsonl"
    summary = convert.read(folder, "rlaif_v", output, progress=False)
    assert (summary.rows, summary.kept, summary.drops) == (1000, 999, {"truncated": 1})
    records = list(read_jsonl(output, Record.parse))
    assert [record.id for record in records] == [f"RLAIF-V-{i}" for i in range(1000) if i != 417]
    assert len(list((tmp_path / "media").iterdir())) == 3
    [drop] = read_jsonl(convert.drop_list(output), lambda row, file, line: row)
    assert drop["source"] == "train-00000.parquet:418" and "cut short or broken" in drop["detail"]
    assert str(tmp_path) not in drop["detail"]


def test_pictures_that_are_paths_and_rows_without_idx(tmp_path: Path) -> None:
    put_pictures(tmp_path, "coco/7.jpg", "b.png")
    rows = [row(7, None), {"question": "Q?", "chosen": "a", "rejected": "b", "image": ["b.png", "coco/7.jpg"]}]
    records, _ = convert_rows(tmp_path / "a.jsonl", rows, "rlaif_v")
    assert [(record.id, record.images) for record in records] == [
        ("RLAIF-V-7", ("coco/7.jpg",)),
        ("a.jsonl:2", ("b.png", "coco/7.jpg")),
    ]
    assert records[1].prompt == [user_message("Q?", images=2)]


def test_rlhf_v_has_its_texts_in_one_column_and_log_probabilities_are_left_behind(tmp_path: Path) -> None:
    text = json.dumps({"question": "What is here?", "chosen": "A cat.", "rejected": "A dog."})
    rows = [{"ds_name": "RLHF-V", "idx": 1, "text": text, "image": {"bytes": picture(), "path": None}, "logps": "[1]"}]
    [record], _ = convert_rows(tmp_path / "a.parquet", rows, "rlaif_v")
    assert (record.id, record.prompt, record.chosen) == ("RLHF-V-1", PROMPT, says("A cat.")) and not record.meta


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"chosen": None}, "no_answer"),
        ({"rejected": " "}, "no_answer"),
        ({"rejected": "A cat."}, "equal"),
        ({"question": None}, "no_prompt"),
        ({"question": "<image> or <image>?"}, "invalid"),
        ({"image": {"bytes": b"no picture", "path": None}}, "unreadable"),
        ({"image": {"bytes": b"", "path": None}}, "truncated"),
        ({"image": {"bytes": None, "path": None}}, "no_media"),
        ({"image": {"bytes": None, "path": "../a.png"}}, "outside"),
        ({"image": {"bytes": None, "path": "gone.png"}}, "missing"),
    ],
)
def test_bad_rows(tmp_path: Path, change: dict, reason: str) -> None:
    good = row(0, {"bytes": picture(), "path": None})
    put_pictures(tmp_path, "coco/0.jpg")
    records, drops = convert_rows(tmp_path / "a.parquet", [good, {**good, **change}], "rlaif_v")
    assert len(records) == 1 and drops == {"a.parquet:2": reason}


def test_a_text_column_that_is_no_json(tmp_path: Path) -> None:
    rows = [{"idx": 1, "text": "{", "image": {"bytes": picture(), "path": None}}]
    with pytest.raises(
        InputError, match=r"nothing in it can be used as rlaif_v; the first of 1 rows: a\.parquet:1.*'text'"
    ):
        convert_rows(tmp_path / "a.parquet", rows, "rlaif_v")
