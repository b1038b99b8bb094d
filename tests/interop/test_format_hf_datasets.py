"""What `datasets` loads: folders and files in all its forms, with the bytes of pictures as they were."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Json, List, Value

from mmalign.interop import convert
from mmalign.records import InputError, Record, RecordFile, read_jsonl, user_message
from tests.interop.reading import picture, put_pictures, put_rows, says

ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
ROWS = [
    {"question": f"What is {i}?", "chosen": f"{i}.", "rejected": "Nothing.", "image": {"bytes": picture(kind="JPEG")}}
    for i in range(3)
]


def table(rows: list[dict] = ROWS) -> Dataset:
    return Dataset.from_list(rows).cast_column("image", Image())


def read(source: Path, folder: Path, **options: str) -> list[Record]:
    convert.read(source, "hf_datasets", folder / "out.jsonl", options=options, progress=False)
    return list(RecordFile(folder / "out.jsonl"))


def check(records: list[Record], folder: Path, place: str) -> None:
    """The records of `ROWS`."""
    for i, record in enumerate(records):
        assert record.prompt == [user_message(f"What is {i}?", images=1)]
        assert (record.chosen, record.rejected) == (says(f"{i}."), says("Nothing."))
        assert (folder / record.images[0]).read_bytes() == picture(kind="JPEG")  # as it came, not decoded
        assert record.id == f"{place}:{i + 1}"
    assert len(records) == 3


@pytest.mark.parametrize("form", ["saved", "saved_splits", "parquet_file", "parquet_folder"])
def test_every_form(tmp_path: Path, form: str) -> None:
    source = tmp_path / "data"
    if form == "saved":
        table().save_to_disk(source)
    elif form == "saved_splits":
        DatasetDict(train=table(), test=table(ROWS[:1])).save_to_disk(source)
    else:
        source.mkdir()
        table().to_parquet(source / "train.parquet")
        source = source / "train.parquet" if form == "parquet_file" else source
    check(read(source, tmp_path), tmp_path, "row" if form == "saved" else "train")


def test_rows_of_text_name_their_pictures(tmp_path: Path) -> None:
    put_pictures(tmp_path / "data", "a.png")
    rows = [{"prompt": "What?", "chosen": "A.", "rejected": "B.", "image": "a.png", "id": "x"}]
    put_rows(tmp_path / "data" / "rows.json", rows)
    with (tmp_path / "data" / "rows.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("rows.json", "rows.csv"):
        (tmp_path / name).mkdir()
        [record] = read(tmp_path / "data" / name, tmp_path / name)
        assert (record.id, record.images, record.prompt) == ("x", ("a.png",), [user_message("What?", images=1)])


MIXED = [
    {"prompt": "What?", "chosen": "A.", "rejected": "B.", "image": "a.png"},
    {"prompt": [ASKED], "chosen": says("A."), "rejected": says("B."), "image": "a.png"},
    {"prompt": [{"role": "user", "content": "What?"}], "chosen": "A.", "rejected": "B.", "image": "a.png"},
    {"prompt": "What?", "chosen": "", "rejected": "B."},
    {"prompt": "What?", "chosen": "A.", "rejected": "B.", "margin": math.nan},
]


@pytest.mark.parametrize("form", ["file", "folder", "saved", "parquet_file"])
def test_rows_of_several_shapes_say_what_they_said(tmp_path: Path, form: str) -> None:
    """`datasets` keeps a column whose shapes differ as JSON, also inside a list; a NaN is lost where it does."""
    lines = put_rows(tmp_path / "data" / "rows.jsonl", MIXED if form in ("file", "folder") else MIXED[:-1])
    put_pictures(tmp_path / "data", "a.png")
    source = lines if form == "file" else tmp_path / "data"
    if form in ("saved", "parquet_file"):
        made = Dataset.from_json(str(lines), cache_dir=str(tmp_path / "cache"))
        assert "Json" in str(made.features["prompt"])
        lines.unlink()
        source = tmp_path / "data" / "rows.parquet" if form == "parquet_file" else source
        made.to_parquet(source) if form == "parquet_file" else made.save_to_disk(source)
    convert.read(source, "hf_datasets", tmp_path / "out.jsonl", progress=False)
    records = list(RecordFile(tmp_path / "out.jsonl", tmp_path / "data"))
    assert [record.id for record in records] == [f"train:{i}" for i in (1, 2, 3)]
    for record in records:
        assert record.prompt == [user_message("What?", images=1)] and record.images == ("a.png",)
        assert (record.chosen, record.rejected) == (says("A."), says("B."))
    listed = read_jsonl(convert.drop_list(tmp_path / "out.jsonl"), lambda row, file, line: row)
    drops = [(drop["source"], drop["reason"]) for drop in listed]
    assert drops == [("train:4", "no_answer"), ("train:5", "invalid")][: 2 if form in ("file", "folder") else 1]


def test_media_in_lists_beside_json_keep_their_bytes(tmp_path: Path) -> None:
    feature = {"prompt": Json(), "chosen": Value("string"), "rejected": Value("string"), "images": List(Image())}
    rows = [{"prompt": [ASKED], "chosen": "A.", "rejected": "B.", "images": [{"bytes": picture(kind="JPEG")}]}]
    Dataset.from_list(rows, features=Features(feature)).to_parquet(tmp_path / "a.parquet")
    [record] = read(tmp_path / "a.parquet", tmp_path)
    assert record.prompt == [user_message("What?", images=1)]
    assert (tmp_path / record.images[0]).read_bytes() == picture(kind="JPEG")


def test_splits_of_json_files_and_a_malformed_line(tmp_path: Path) -> None:
    row = {"prompt": "What?", "chosen": "A.", "rejected": "B."}
    for name, answers in {"train": "AC", "test": "D"}.items():
        put_rows(tmp_path / "data" / f"{name}.jsonl", [row | {"chosen": f"{answer}."} for answer in answers])
    found = read(tmp_path / "data", tmp_path, split="test")
    assert [(record.id, record.chosen) for record in found] == [("test:1", says("D."))]
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write('{"prompt": ')
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(InputError, match=r"train.jsonl:3: malformed JSON"):
        read(tmp_path / "data", tmp_path)


def test_columns_and_splits_are_options(tmp_path: Path) -> None:
    rows = [{"ask": "What?", "good": "A.", "bad": "B.", "photos": [{"bytes": picture()}] * 2, "prompt": None}]
    made = Dataset.from_list(rows).cast_column("photos", List(Image()))
    DatasetDict(one=made, other=made).save_to_disk(tmp_path / "data")
    columns = "prompt=ask, images=photos,chosen=good,rejected=bad"
    [record] = read(tmp_path / "data", tmp_path, split="other", columns=columns)
    assert record.prompt == [user_message("What?", images=2)]
    assert (record.chosen, record.rejected, record.id) == (says("A."), says("B."), "other:1")
    assert len(record.images) == 2


def test_a_named_column_need_not_be_in_every_row_of_json(tmp_path: Path) -> None:
    rows = [7, {"ask": "What?", "chosen": "A.", "rejected": "B."}, {"ask": "Who?", "good": "C.", "rejected": "D."}]
    source = put_rows(tmp_path / "rows.jsonl", rows)
    first, second = read(source, tmp_path, columns="prompt=ask,chosen=good")
    assert (first.prompt, first.chosen) == ([user_message("What?")], says("A."))
    assert (second.prompt, second.chosen) == ([user_message("Who?")], says("C."))
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(InputError, match="field 'columns': there is no column 'photo'"):
        read(source, tmp_path, columns="prompt=ask,image=photo")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "which of one, other"),
        ({"split": "third"}, "which of one, other"),
        ({"split": "one", "columns": "prompt=ask"}, "field 'columns': there is no column 'ask'; there are question"),
        ({"split": "one", "columns": "prompt"}, "field 'columns': expected NAME=COLUMN"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict, complaint: str) -> None:
    DatasetDict(one=table(), other=table()).save_to_disk(tmp_path / "data")
    with pytest.raises(InputError) as error:
        read(tmp_path / "data", tmp_path, **options)
    assert complaint in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_what_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "model.pkl").write_bytes(b"")
    sources = [(tmp_path / "gone", "no such file or folder"), (tmp_path / "model.pkl", "ends in none of .parquet")]
    sources += [(tmp_path / "empty", "cannot be loaded: "), (tmp_path / "broken.parquet", "cannot be ")]
    sources += [(Path("nobody/offline"), "nobody/offline: cannot be loaded: ")]  # the tests are offline
    for source, complaint in sources:
        with pytest.raises(InputError) as error:
            read(source, tmp_path)
        assert complaint in str(error.value) and "\n" not in str(error.value)
