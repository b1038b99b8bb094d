"""TRL's parquet: its own trainer reads it, nothing is lost on the way there and back, and pixels stay what they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image, List, load_dataset
from PIL import Image as Pictures
from pyarrow.parquet import ParquetFile

from mmalign.interop import convert
from mmalign.interop.formats import trl
from mmalign.media import open_image
from mmalign.records import InputError, Record, RecordFile, assistant_message, user_message, write_jsonl
from tests.families import build
from tests.interop.reading import convert_rows, picture, put_pictures, put_rows, says
from tests.performance import sides
from tests.tiny import noise, sentence


def texts(*parts: str) -> list[dict[str, str]]:
    return [{"type": part} if part == "image" else {"type": "text", "text": part} for part in parts]


def pair(name: str, *parts: str, **others: object) -> Record:
    prompt = [{"role": "user", "content": texts(*parts)}]
    return Record(name, prompt, **{"chosen": says("A cat."), "rejected": says("A dog."), **others})


def write(folder: Path, records: list[Record], name: str = "pairs.parquet", **options: object) -> Path:
    write_jsonl(folder / "pairs.jsonl", records)
    convert.write(folder / "pairs.jsonl", "trl", folder / name, progress=False, **options)
    return folder / name


def load(path: Path, cache: Path) -> Dataset:
    return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(cache))


# --- with TRL itself --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs: a picture, two between words, a system's turn, an older turn, and one without a picture."""
    folder, rng = tmp_path_factory.mktemp("trl"), np.random.default_rng(0)
    names = tuple(f"{i}.png" for i in range(5))
    for name in names:
        noise(rng).save(folder / name)
    system = {"role": "system", "content": texts("Be brief.")}
    first, last = user_message("What is it?", images=1), {"role": "user", "content": texts("And ", "image", " here?")}
    prompts = [
        ([user_message("Describe the image.", images=1)], names[:1]),
        ([{"role": "user", "content": texts("Is ", "image", " as ", "image", "?")}], names[1:3]),
        ([system, first], names[3:4]),
        ([first, assistant_message("A circle."), last], names[:5:4]),
        ([user_message("Describe a circle.")], ()),  # last: Adam of the two counts a step without a picture differently
    ]
    pairs = [says(sentence(rng, 3 + i)) for i in range(10)]
    records = [
        Record(f"r{i}", prompt, pairs[2 * i], pairs[2 * i + 1], images=images)
        for i, (prompt, images) in enumerate(prompts)
    ]
    return write(folder, records).parent


def test_trl_trains_on_it_and_sees_the_same_pairs(trained: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("trl", reason="the rival is not installed: pip install 'mmalign[dev]'")
    plan = sides.Plan(data=trained / "pairs.jsonl", output=tmp_path, learning_rate=3e-3)
    ours = sides.run_mmalign(build("llava"), plan)
    rows = load(trained / "pairs.parquet", tmp_path)
    assert "id" in rows.column_names  # of which TRL takes no notice
    monkeypatch.setattr(sides, "_trl_rows", lambda path: rows)
    theirs = sides.run_trl(build("llava"), plan)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-4)
    assert set(theirs.logps) == {f"{who}_{side}" for who in ("policy", "reference") for side in ("chosen", "rejected")}
    for name, expected in theirs.logps.items():
        assert len(expected) == 5
        np.testing.assert_allclose(ours.logps[name], expected, rtol=1e-5, err_msg=name)


def test_there_and_back(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "back.jsonl"
    summary = convert.read(trained / "pairs.parquet", "trl", output, progress=False)
    before, after = RecordFile(trained / "pairs.jsonl"), RecordFile(output, summary.media_root)
    assert len(after) == 5
    for one, other in zip(before, after, strict=True):
        files = zip(before.media(one), after.media(other), strict=True)
        assert all(path.read_bytes() == again.read_bytes() for path, again in files)
        left = {**other.to_json(), "images": list(one.images)}
        assert left.pop("meta") == {"format": "trl", "place": f"pairs.parquet:{int(one.id[1:]) + 1}"}
        assert left == {"images": [], **one.to_json()}


# --- writing ----------------------------------------------------------------------------------------------------------


def test_pictures_have_the_pixels_that_are_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (6, 8, 4), dtype=np.uint8)
    made = {
        "rgb.jpg": Pictures.fromarray(pixels[..., :3]),
        "grey.png": Pictures.fromarray(pixels[..., 0]),
        "deep.png": Pictures.fromarray(pixels[..., 0].astype(np.uint16) * 250),
        "clear.png": Pictures.fromarray(pixels),
        "palette.gif": Pictures.fromarray(pixels[..., :3]).quantize(8),
    }
    for name, image in made.items():
        image.save(tmp_path / name)
    turned = Pictures.Exif()
    turned[0x0112] = 6
    made["rgb.jpg"].save(tmp_path / "turned.jpg", exif=turned)
    names = [*made, "turned.jpg"]
    path = write(tmp_path, [pair(name, "image", "?", images=(name,)) for name in names])
    for row in load(path, tmp_path / "cache"):
        [shown] = row["images"]
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(open_image(tmp_path / row["id"])), row["id"])
        assert shown.mode == "RGB"
    [stored] = ParquetFile(path).read_row_group(0).to_pylist()[0]["images"]
    assert stored == {"bytes": (tmp_path / "rgb.jpg").read_bytes(), "path": "rgb.jpg"}


def test_columns_are_those_of_trl(tmp_path: Path) -> None:
    put_pictures(tmp_path, "a.png")
    rows = load(
        write(tmp_path, [pair("a", "What?", "image", images=("a.png",)), pair("b", "What?")]), tmp_path / "cache"
    )
    assert rows.column_names == ["id", "prompt", "chosen", "rejected", "images"]
    assert rows.features["images"] == List(Image())
    assert rows[1]["images"] == []
    [message] = rows[0]["prompt"]
    assert message["role"] == "user"
    assert message["content"] == [{"type": "text", "text": "What?"}, {"type": "image", "text": None}]


def test_rows_are_written_in_groups(tmp_path: Path, monkeypatch) -> None:
    put_pictures(tmp_path, "a.png")
    monkeypatch.setattr(trl, "ROW_GROUP", 2 * len((tmp_path / "a.png").read_bytes()))
    path = write(tmp_path, [pair(str(i), "image", images=("a.png",)) for i in range(5)])
    with ParquetFile(path) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("others", "field"),
    [
        ({"videos": ("a.avi",), "parts": ("video",)}, "videos (of 1 records)"),
        ({"rejected_images": ("a.png",), "images": ("b.png",), "parts": ("image",)}, "rejected_images"),
        ({"weight": 2.0}, "weight"),
        ({"chosen_spans": ((0, 1),)}, "chosen_spans"),
    ],
)
def test_what_trl_would_drop_without_a_word_is_refused(tmp_path: Path, others: dict, field: str) -> None:
    content = [{"type": part} for part in others.pop("parts", ())] + texts("What?")
    record = Record("a", [{"role": "user", "content": content}], says("A cat."), says("A dog."), **others)
    with pytest.raises(InputError, match="cannot carry") as error:
        write(tmp_path, [record])
    assert field in str(error.value)
    assert not (tmp_path / "pairs.parquet").exists()


def test_clips_are_dropped_as_clips(tmp_path: Path) -> None:
    """Where the user says so; the record is as it should be."""
    (tmp_path / "a.avi").write_bytes(b"a clip")
    clip = Record("b", [user_message("What?", videos=1)], says("A."), says("B."), videos=("a.avi",))
    path = write(tmp_path, [pair("a", "What?"), clip], drop_extras=True)
    assert ParquetFile(path).metadata.num_rows == 1
    listed = convert.drop_list(path).read_text()
    assert '"reason": "videos"' in listed and "has a clip, and the format has pictures alone" in listed


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trl needs rejected, which 1 of 1 records"):
        write(tmp_path, [pair("a", "What?", rejected=None)])
    with pytest.raises(InputError, match=r"must end in \.parquet"):
        write(tmp_path, [pair("a", "What?")], "pairs.jsonl.gz")
    calling = {"role": "assistant", "content": texts("Wait."), "tool_calls": [{"name": "look"}]}
    turns = [user_message("What?"), calling, user_message("Well?")]
    path = write(tmp_path, [pair("a", "What?"), Record("b", turns, says("A."), says("B."))])
    assert ParquetFile(path).metadata.num_rows == 1
    assert '"reason": "tools"' in convert.drop_list(path).read_text()


# --- reading ----------------------------------------------------------------------------------------------------------

ASKED, CAT, DOG = ({"role": role, "content": text} for role, text in (
    ("user", "What?"), ("assistant", "A cat."), ("assistant", "A dog.")))  # fmt: skip
BYTES = {"bytes": picture(), "path": "x.png"}
SIDES = {"chosen": [CAT], "rejected": [DOG]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": [ASKED], **SIDES}, {}),
        ({"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."}, {}),
        (SIDES | {"chosen": [ASKED, CAT], "rejected": [ASKED, DOG]}, {}),
        ({"prompt": "What?", "chosen": [ASKED, CAT], "rejected": [ASKED, DOG], "score_chosen": 7, "score_rejected": 2},
         {"chosen_scores": {"reward": 7.0}, "rejected_scores": {"reward": 2.0}}),
        ({"prompt": [ASKED], "chosen": [ASKED, CAT], "rejected": [ASKED, DOG], "margin": 0.5},
         {"chosen_scores": {"reward": 0.5}, "rejected_scores": {"reward": 0.0}}),
        ({"messages": [ASKED, CAT]}, {"rejected": None}),
        ({"prompt": [ASKED], "completion": [CAT], "label": True}, {"rejected": None}),
        ({"prompt": "What?", "completion": "A dog.", "label": False}, {"chosen": None}),
        ({"prompt": [ASKED], **SIDES, "tools": None, "images": None, "extra": 1}, {}),
    ],
)  # fmt: skip
def test_every_layout_of_texts(tmp_path: Path, row: dict, expected: dict) -> None:
    records, drops = convert_rows(tmp_path / "a.jsonl", [row], "trl")
    whole = {"chosen": says("A cat."), "rejected": says("A dog."), **expected}
    assert records == [Record("a.jsonl:1", [user_message("What?")], **whole)] and not drops


@pytest.mark.parametrize(
    ("row", "blocks"),
    [
        ({"prompt": [ASKED], "images": [BYTES, BYTES]}, ("image", "image", "What?")),
        ({"prompt": [ASKED], "image": BYTES}, ("image", "What?")),
        ({"prompt": "What?", "images": [BYTES]}, ("image", "What?")),
        ({"prompt": "Is <image>\nit?", "images": [BYTES]}, ("Is ", "image", "\nit?")),
        ({"prompt": "Is <image> it?", "images": []}, ("Is <image> it?",)),
        ({"prompt": [{"role": "user", "content": [
            {"type": "text", "text": "Is ", "image": None}, {"type": "image", "text": None, "image": BYTES}]}]},
         ("Is ", "image")),
    ],
)  # fmt: skip
def test_every_place_of_pictures(tmp_path: Path, row: dict, blocks: tuple[str, ...]) -> None:
    sides = {"chosen": "A cat.", "rejected": "A dog."} if isinstance(row["prompt"], str) else SIDES
    [record], drops = convert_rows(tmp_path / "a.parquet", [row | sides], "trl")
    assert record.prompt == [{"role": "user", "content": texts(*blocks)}] and not drops
    assert len(record.images) == blocks.count("image")
    assert all((tmp_path / name).read_bytes() == picture() for name in record.images)


def test_pictures_in_blocks_and_in_the_row_keep_their_order(tmp_path: Path) -> None:
    put_pictures(tmp_path, "a.png", "b.png", "c.png")
    content = [{"type": "image"}, {"type": "image", "image": "b.png"}, {"type": "image"}]
    row = {"prompt": [{"role": "user", "content": content}], **SIDES, "images": ["a.png", "c.png"]}
    [record], _ = convert_rows(tmp_path / "a.jsonl", [row], "trl")
    assert record.images == ("a.png", "b.png", "c.png")
    assert record.prompt[0]["content"] == [{"type": "image"}] * 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "The cat.", "rejected": "The dog."}, "no_prompt"),
        ({"chosen": [CAT], "rejected": [DOG]}, "no_prompt"),
        ({"prompt": [ASKED]}, "no_answer"),
        ({"prompt": [ASKED], **SIDES, "tools": '[{"name": "look"}]'}, "tools"),
        ({"prompt": [ASKED], **SIDES, "chat_template_kwargs": {"think": True}}, "tools"),
        ({"prompt": [ASKED], "chosen": [ASKED, CAT, ASKED, CAT], "rejected": [DOG]}, "turns"),
        ({"prompt": "Who?", "chosen": [ASKED, CAT], "rejected": [ASKED, DOG]}, "turns"),
        ({"prompt": [ASKED], "chosen": 7, "rejected": [DOG]}, "turns"),
        ({"prompt": [ASKED], "chosen": [CAT], "rejected": [CAT]}, "equal"),
        ({"prompt": [ASKED], "chosen": [CAT], "rejected": CAT["content"]}, "equal"),
        ({"prompt": "Who?", "chosen": "A cat.", "rejected": "A cat."}, "equal"),
        ({"prompt": "Who?", "chosen": "", "rejected": "A dog."}, "no_answer"),
        ({"prompt": "Who?", "completion": " "}, "no_answer"),
        ({"prompt": [ASKED], "chosen": [CAT | {"content": []}], "rejected": [DOG]}, "no_answer"),
        ({"prompt": "", "chosen": "A cat.", "rejected": "A dog."}, "no_prompt"),
        ({"prompt": [{"role": "user", "content": " "}], **SIDES}, "no_prompt"),
        ({"prompt": [], "chosen": "A cat.", "rejected": "A dog."}, "no_prompt"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], **SIDES, "images": []}, "invalid"),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "?"}]}], **SIDES, "images": ["a.png"]},
         "invalid"),
        ({"prompt": [ASKED], **SIDES, "images": ["gone.png"]}, "missing"),
    ],
)  # fmt: skip
def test_bad_rows(tmp_path: Path, row: dict, reason: str) -> None:
    put_pictures(tmp_path, "a.png")
    _, drops = convert_rows(tmp_path / "a.jsonl", [{"prompt": [ASKED], **SIDES}, row], "trl")
    assert drops == {"a.jsonl:2": reason}


def test_a_pair_is_not_lost_to_the_messages_beside_it(tmp_path: Path) -> None:
    row = {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog.", "messages": [ASKED, CAT]}
    [record], _ = convert_rows(tmp_path / "a.jsonl", [row], "trl")
    assert (record.chosen, record.rejected) == (says("A cat."), says("A dog."))


def test_a_record_is_not_read_for_half_of_what_it_says(tmp_path: Path) -> None:
    put_pictures(tmp_path, "a.png", "b.png")
    row = {"prompt": [ASKED], **SIDES, "images": ["a.png"], "meta": {"x": 1}, "rejected_images": ["b.png"]}
    with pytest.raises(InputError, match=r"trl does not read rejected_images \(at a.jsonl:1\)"):
        convert_rows(tmp_path / "a.jsonl", [row], "trl")
    [record], _ = convert_rows(tmp_path / "a.jsonl", [row], "trl", drop_extras=True)
    assert (record.images, record.rejected_images) == (("a.png",), ())


def test_json_in_a_parquet_file_of_datasets_is_read_as_what_it_says(tmp_path: Path) -> None:
    """Where rows differ, `datasets` keeps a column, or a part of one, as JSON."""
    rows = [
        {"prompt": [{"role": "user", "content": texts("image", "What?")}], "chosen": "A cat.", "rejected": "A dog.",
         "images": ["a.png"]},
        {"prompt": [{"role": "user", "content": "Who?"}], "chosen": [CAT], "rejected": [DOG], "images": []},
    ]  # fmt: skip
    lines = put_rows(tmp_path / "lines.jsonl", rows)
    table = Dataset.from_json(str(lines), cache_dir=str(tmp_path / "cache"))
    assert "Json" in str(table.features["chosen"]) and "Json" in str(table.features["prompt"])
    table.to_parquet(tmp_path / "a.parquet")
    put_pictures(tmp_path, "a.png")
    convert.read(tmp_path / "a.parquet", "trl", tmp_path / "out.jsonl", progress=False)
    first, second = RecordFile(tmp_path / "out.jsonl")
    assert (first.prompt, first.chosen) == ([user_message("What?", images=1)], says("A cat."))
    assert (second.prompt, second.chosen, second.rejected) == ([user_message("Who?")], says("A cat."), says("A dog."))


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    image = Pictures.open(io.BytesIO(picture()))
    rows = [{"prompt": [ASKED], **SIDES, "images": [image]}]
    Dataset.from_list(rows).cast_column("images", List(Image())).save_to_disk(tmp_path / "saved")
    convert.read(tmp_path / "saved", "trl", tmp_path / "out.jsonl", progress=False)
    [record] = RecordFile(tmp_path / "out.jsonl")
    assert record.prompt == [user_message("What?", images=1)]
