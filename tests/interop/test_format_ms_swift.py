"""ms-swift's layouts; `python -m tests.interop.peers` asks ms-swift itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.interop import convert
from mmalign.records import InputError, Record, RecordFile, assistant_message, user_message, write_jsonl
from tests.interop.peers import cases
from tests.interop.reading import convert_rows, put_pictures, says

USER = {"role": "user", "content": "<image>What?"}
CAT, DOG = ({"role": "assistant", "content": text} for text in ("A cat.", "A dog."))
PAIR = {"messages": [USER, CAT], "images": ["a.png"], "rejected_response": "A dog."}
VISUAL = {"messages": [USER, CAT], "images": ["a.png"], "rejected_images": ["b.png"]}
SIDES = {"chosen": says("A cat."), "rejected": says("A dog.")}
MARGIN = {"chosen_scores": {"reward": 1.5}, "rejected_scores": {"reward": 0.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put_pictures(tmp_path, *cases.PICTURES)
    for name in ("clip.avi", "other.avi"):
        (tmp_path / name).write_bytes(b"frames")
    return tmp_path


def record(**others: object) -> Record:
    return Record("a.jsonl:1", [user_message("What?", images=1)], images=("a.png",), **SIDES | others)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PAIR, record()),
        (PAIR | {"rejected_response": [DOG]}, record()),
        (PAIR | {"margin": 1.5}, record(**MARGIN)),
        (PAIR | {"label": None, "margin": None, "tools": []}, record()),
        (PAIR | {"images": None, "image": "a.png"}, record()),
        (PAIR | {"messages": [USER | {"content": "What?"}, CAT]}, record()),
        (PAIR | {"rejected_images": ["a.png"]}, record()),
        (VISUAL, record(rejected=None, rejected_images=("b.png",))),
        (VISUAL | {"margin": 1.5}, record(rejected=None, rejected_images=("b.png",), **MARGIN)),
        (VISUAL | {"rejected_messages": [USER, DOG]}, "two_differences"),
        (VISUAL | {"rejected_images": [], "rejected_messages": [USER, DOG]}, "two_differences"),
        (VISUAL | {"rejected_images": None, "rejected_messages": [USER, DOG]}, "no_rejected_media"),
        (VISUAL | {"rejected_images": None, "rejected_image": "b.png"},
         record(rejected=None, rejected_images=("b.png",))),
        (VISUAL | {"rejected_images": ["a.png"], "rejected_messages": [USER, DOG]}, record()),
        (VISUAL | {"rejected_messages": [USER, CAT]}, record(rejected=None, rejected_images=("b.png",))),
        (VISUAL | {"rejected_images": ["a.png"], "rejected_messages": [USER | {"content": "<image>Who?"}, CAT]},
         record(rejected=None, rejected_prompt=[user_message("Who?", images=1)])),
        (PAIR | {"rejected_response": None}, record(rejected=None)),
        (PAIR | {"rejected_response": None, "label": True, "rejected_images": []}, record(rejected=None)),
        (PAIR | {"rejected_response": None, "label": False}, record(chosen=None, rejected=says("A cat."))),
    ],
)  # fmt: skip
def test_one_difference_is_one_field(folder: Path, row: dict, expected: Record | str) -> None:
    rows = [row, {"messages": [CAT | {"role": "user"}, CAT]}]
    records, drops = convert_rows(folder / "a.jsonl", rows, "ms_swift")
    dropped = isinstance(expected, str)
    assert records[:-1] == ([] if dropped else [expected])
    assert drops == ({"a.jsonl:1": expected} if dropped else {})


def test_media_without_a_tag_stand_in_front_of_the_first_turn(folder: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it <image>?"}, CAT,
             {"role": "user", "content": "And?"}, CAT]  # fmt: skip
    row = PAIR | {"messages": turns, "images": ["a.png", "b.png"], "videos": ["clip.avi"]}
    [found], _ = convert_rows(folder / "a.jsonl", [row], "ms_swift")
    first = [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "Is it "}, {"type": "image"}]
    assert found.prompt == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [*first, {"type": "text", "text": "?"}]},
        assistant_message("A cat."),
        user_message("And?"),
    ]


def test_clips_may_be_rejected(folder: Path) -> None:
    row = {"messages": [USER | {"content": "<video>What?"}, CAT], "videos": ["clip.avi"]}
    [found], _ = convert_rows(folder / "a.jsonl", [row | {"rejected_videos": ["other.avi"]}], "ms_swift")
    assert (found.videos, found.rejected_videos, found.rejected) == (("clip.avi",), ("other.avi",), None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected_images": ["b.png"]}, "two_differences"),
        ({"rejected_response": "A cat."}, "equal"),
        ({"rejected_response": [DOG, DOG]}, "turns"),
        ({"rejected_response": [USER, DOG]}, "turns"),
        ({"rejected_response": [USER]}, "turns"),
        ({"rejected_response": 7}, "turns"),
        ({"rejected_response": "A <image>."}, "tags"),
        ({"rejected_response": ""}, "no_answer"),
        ({"messages": [USER]}, "turns"),
        ({"messages": [USER, CAT, DOG]}, "turns"),
        ({"messages": [USER, {"role": "tool_call", "content": "{}"}, CAT]}, "turns"),
        ({"messages": [USER, CAT | {"tool_calls": [{"name": "look"}]}]}, "tools"),
        ({"messages": []}, "turns"),
        ({"messages": None}, "turns"),
        ({"messages": [USER | {"content": "<image><image>?"}, CAT]}, "invalid"),
        ({"images": ["gone.png"]}, "missing"),
        ({"images": ["https://a.b/c.png"]}, "url"),
        ({"tools": ["{}"]}, "tools"),
        ({"objects": {"bbox": [[1, 2]]}}, "objects"),
        ({"rejected_audios": ["a.wav"]}, "audios"),
        ({"system": 7}, "turns"),
        ({"rejected_response": None, "label": 3}, "label"),
        ({"margin": "large"}, "invalid"),
    ],
)
def test_bad_rows(folder: Path, change: dict, reason: str) -> None:
    _, drops = convert_rows(folder / "a.jsonl", [PAIR, PAIR | change], "ms_swift")
    assert drops == {"a.jsonl:2": reason}


@pytest.mark.parametrize("name", list(cases.MS_SWIFT))
def test_every_layout_is_read(folder: Path, name: str) -> None:
    """What the rows give is held against ms-swift by `tests.interop.peers`."""
    rows = cases.MS_SWIFT[name]
    records, drops = convert_rows(folder / "a.jsonl", rows, "ms_swift")
    assert len(records) == len(rows) and not drops


# --- writing ----------------------------------------------------------------------------------------------------------


def write(folder: Path, records: list[Record], **options: object) -> dict[str, list[dict]]:
    """The rows of each file that is written."""
    write_jsonl(folder / "records.jsonl", records)
    convert.write(folder / "records.jsonl", "ms_swift", folder / "pairs.jsonl", progress=False, **options)
    files = [file for part in ("pairs", "pairs_sft", "pairs_kto") if (file := folder / f"{part}.jsonl").exists()]
    return {file.stem: [json.loads(line) for line in file.open()] for file in files}


def test_a_row_for_each_pair(folder: Path) -> None:
    three = record(
        rejected_images=("b.png",),
        rejected_prompt=[user_message("Who?", images=1)],
        chosen_scores={"reward": 2.0},
        rejected_scores={"reward": 0.5},
    )
    [rows] = write(folder, [three]).values()
    side = {"images": ["a.png"], "videos": [], "rejected_videos": []}
    said = {"messages": [USER, CAT], **side}
    assert rows == [
        {"id": "a.jsonl:1", **said, "rejected_messages": [USER, DOG], "rejected_images": ["a.png"], "margin": 1.5},
        {"id": "a.jsonl:1@rejected_media", **said, "rejected_messages": [USER, CAT], "rejected_images": ["b.png"]},
        {
            "id": "a.jsonl:1@rejected_prompt",
            **said,
            "rejected_messages": [{"role": "user", "content": "<image>Who?"}, CAT],
            "rejected_images": ["a.png"],
        },
    ]


def test_there_and_back(folder: Path) -> None:
    visual = record(rejected=None, rejected_images=("b.png",))
    records = [*cases.PAIRS, Record(**{**vars(visual), "id": "x"}), record(**MARGIN)]
    write(folder, records)
    convert.read(folder / "pairs.jsonl", "ms_swift", folder / "back.jsonl", progress=False)
    found = [one.to_json() for one in RecordFile(folder / "back.jsonl")]
    assert all(one.pop("meta") for one in found)
    expected = [one.to_json() for one in records]
    expected[-2]["id"] = "x@rejected_media"
    assert found == expected


def test_each_kind_has_a_file_of_its_own(folder: Path) -> None:
    files = write(folder, [*cases.PAIRS, *cases.ALONE, *cases.REFUSED])
    assert {name: len(rows) for name, rows in files.items()} == {"pairs": 7, "pairs_kto": 3, "pairs_sft": 3}
    assert all(row["label"] is False for row in files["pairs_kto"])
    assert not any("rejected_messages" in row or "label" in row for row in files["pairs_sft"])


def test_scores_that_are_in_no_margin_are_refused(folder: Path) -> None:
    one = record(chosen_scores={"reward": 1.0, "faithful": 2.0})
    with pytest.raises(InputError, match="cannot carry") as error:
        write(folder, [one])
    assert "chosen_scores.faithful" in str(error.value) and "chosen_scores.reward" in str(error.value)
    [[row]] = write(folder, [one], drop_extras=True).values()
    assert "margin" not in row


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(chosen=says("An <image>.")), "tags"),
        (record(chosen=says("<img>x</img>")), "tags"),
        (record(chosen=None, rejected_images=("b.png",)), "no_chosen"),
        (record(rejected_images=("gone.png",)), "missing"),
        (Record("b", [{"role": "tool", "content": [{"type": "text", "text": "."}]}, user_message("?")], **SIDES),
         "tools"),
    ],
)  # fmt: skip
def test_records_that_are_not_written(folder: Path, bad: Record, reason: str) -> None:
    [rows] = write(folder, [cases.PAIRS[0], bad]).values()
    assert [row["id"] for row in rows] == ["none"]
    assert f'"reason": "{reason}"' in convert.drop_list(folder / "pairs.jsonl").read_text()
