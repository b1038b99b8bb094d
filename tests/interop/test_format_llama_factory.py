"""LLaMA-Factory's layouts; `python -m tests.interop.peers` asks LLaMA-Factory itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign import cli
from mmalign.interop import convert
from mmalign.records import InputError, Record, RecordFile, assistant_message, user_message, write_jsonl
from tests.interop.peers import cases
from tests.interop.reading import convert_rows, put_pictures, says

ASKED = {"from": "human", "value": "<image>What?"}
GPT = {text: {"from": "gpt", "value": f"A {text}."} for text in ("cat", "dog")}
PAIR = {"conversations": [ASKED], "chosen": GPT["cat"], "rejected": GPT["dog"], "images": ["a.png"]}
OPENAI = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
SIDES = {"chosen": says("A cat."), "rejected": says("A dog.")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put_pictures(tmp_path, *cases.PICTURES)
    (tmp_path / "clip.avi").write_bytes(b"frames")
    return tmp_path


def record(*parts: str, **others: object) -> Record:
    content = [{"type": part} if part in ("image", "video") else {"type": "text", "text": part} for part in parts]
    return Record("a.jsonl:1", [{"role": "user", "content": content}], **SIDES | others)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PAIR, record("image", "What?", images=("a.png",))),
        (PAIR | {"conversations": [{"from": "human", "value": "What\n<image>\n<video>"}], "videos": ["clip.avi"]},
         record("What\n", "image", "\n", "video", images=("a.png",), videos=("clip.avi",))),
        (PAIR | {"images": "a.png", "tools": "", "audios": []}, record("image", "What?", images=("a.png",))),
        (PAIR | {"id": 7}, record("image", "What?", images=("a.png",))),
        ({"instruction": "<image>What?", "input": "Say.", "chosen": "A cat.", "rejected": "A dog.", "image": "b.png",
          "images": ["a.png"]},
         record("image", "What?\nSay.", images=("a.png",))),
        ({"instruction": "What?", "output": "A cat."}, record("What?", rejected=None)),
        ({"messages": OPENAI}, record("What?", rejected=None)),
        ({"messages": OPENAI, "kto_tag": True}, record("What?", rejected=None)),
        ({"messages": OPENAI, "kto_tag": False}, record("What?", chosen=None, rejected=says("A cat."))),
    ],
)  # fmt: skip
def test_rows_without_a_description(folder: Path, row: dict, expected: Record) -> None:
    [found], drops = convert_rows(folder / "a.jsonl", [row], "llama_factory")
    assert found.id == str(row.get("id", "a.jsonl:1"))
    assert {**found.to_json(), "id": ""} == {**expected.to_json(), "id": ""} and not drops


def test_system_and_older_turns(folder: Path) -> None:
    turns = [ASKED, GPT["cat"], {"from": "human", "value": "And?"}]
    rows = [
        PAIR | {"conversations": turns, "system": "Be brief."},
        PAIR | {"conversations": [{"from": "system", "value": "Be brief."}, *turns]},
    ]
    for found in convert_rows(folder / "a.jsonl", rows, "llama_factory")[0]:
        system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        assert found.prompt == [system, user_message("What?", 1), assistant_message("A cat."), user_message("And?")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": ["a.png", "b.png"]}, "invalid"),
        ({"images": []}, "invalid"),
        ({"images": ["gone.png"]}, "missing"),
        ({"images": ["../x.png"]}, "outside"),
        ({"rejected": {"from": "gpt", "value": "A <image>."}}, "tags"),
        ({"chosen": GPT["dog"]}, "equal"),
        ({"rejected": {"from": "gpt", "value": " "}}, "no_answer"),
        ({"rejected": None}, "no_answer"),
        ({"tools": "[{}]"}, "tools"),
        ({"audios": ["a.wav"]}, "audios"),
        ({"conversations": [ASKED, {"from": "function_call", "value": "{}"}]}, "turns"),
        ({"conversations": [{"from": "human", "value": None}]}, "turns"),
        ({"conversations": "What?"}, "turns"),
        ({"system": 7}, "turns"),
        ({"videos": [["1.png", "2.png"]]}, "no_media"),
    ],
)
def test_bad_rows(folder: Path, change: dict, reason: str) -> None:
    _, drops = convert_rows(folder / "a.json", [PAIR, PAIR | change, 7], "llama_factory")
    assert drops == {"a.json:2": reason, "a.json:3": "invalid"}


def described(folder: Path, entry: dict, rows: list[dict]) -> Path:
    (folder / "rows.json").write_text(json.dumps(rows))
    others = {"hub": {"hf_hub_url": "a/b"}, "odd": {"file_name": "x", "columns": ["messages"]}}
    info = {"mine": {"file_name": "rows.json", **entry}, **others}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder / "dataset_info.json"


@pytest.mark.parametrize("name", list(cases.LLAMA_FACTORY))
def test_described_rows(folder: Path, name: str) -> None:
    """Columns and tags are followed; what they give is held against LLaMA-Factory by `tests.interop.peers`."""
    _, entry, rows = cases.LLAMA_FACTORY[name]
    output = str(folder / "out.jsonl")
    source = described(folder, entry, rows)
    arguments = ["convert", "--from", "llama_factory", "--option", "dataset=mine", "--output", output]
    assert cli.main([*arguments, str(source)]) == 0
    found = list(RecordFile(output))
    assert len(found) == len(rows)
    if name == "tagged":
        [one] = found
        assert [turn["role"] for turn in one.prompt] == ["system", "user"]
        assert (one.images, one.chosen, one.rejected) == (("b.png",), says("A cat."), says("A dog."))
    if name == "kto":
        assert [(one.chosen, one.rejected) for one in found] == [(says("A cat."), None), (None, says("A dog."))]


def test_a_column_that_is_not_described_is_not_read(folder: Path) -> None:
    rows = [{"instruction": "What?", "input": "No!", "output": "A cat.", "chosen": "x", "rejected": "y"}]
    source = described(folder, {"columns": {"prompt": "instruction", "response": "output"}}, rows)
    arguments = source, "llama_factory", folder / "out.jsonl"
    with pytest.raises(InputError, match=r"llama_factory does not read chosen, rejected \(at rows.json:1\)"):
        convert.read(*arguments, options={"dataset": "mine"}, progress=False)
    summary = convert.read(*arguments, options={"dataset": "mine"}, drop_extras=True, progress=False)
    assert summary.left_out == {"input": 1, "chosen": 1, "rejected": 1}
    [found] = RecordFile(folder / "out.jsonl")
    assert (found.prompt, found.chosen, found.rejected) == ([user_message("What?")], says("A cat."), None)


def test_turns_of_another_project_are_not_read_for_half_of_what_they_say(folder: Path) -> None:
    row = {"messages": cases.MS_SWIFT["whole"][0]["messages"], "images": ["a.png"], "input": "x"}
    [found], _ = convert_rows(folder / "a.json", [row | {"rejected_messages": None}], "llama_factory")
    assert found.chosen == says("A cat.")
    with pytest.raises(InputError, match="llama_factory does not read rejected_images, rejected_messages"):
        convert_rows(folder / "a.json", [row, cases.MS_SWIFT["whole"][0]], "llama_factory")


@pytest.mark.parametrize(
    ("source", "options", "complaint"),
    [
        ("dataset_info.json", {}, "field 'dataset': which of mine, hub, odd? Give --option dataset=NAME"),
        (".", {"dataset": "other"}, "field 'dataset': which of mine, hub, odd?"),
        ("dataset_info.json", {"dataset": "hub"}, "field 'hub': names no file"),
        ("rows.json", {"dataset": "mine"}, "field 'dataset': goes with a dataset_info.json"),
        ("dataset_info.json", {"dataset": "odd"}, "field 'odd': columns and tags must be objects of names"),
    ],
)
def test_descriptions_that_do_not_fit(folder: Path, source: str, options: dict, complaint: str) -> None:
    described(folder, {}, [PAIR])
    with pytest.raises(InputError) as error:
        convert.read(folder / source, "llama_factory", folder / "out.jsonl", options=options, progress=False)
    assert complaint in str(error.value)


# --- writing ----------------------------------------------------------------------------------------------------------


def write(folder: Path, records: list[Record], name: str = "pairs.jsonl", **options: object) -> list[list[dict]]:
    """The rows of the files that are written."""
    write_jsonl(folder / "records.jsonl", records)
    convert.write(folder / "records.jsonl", "llama_factory", folder / name, progress=False, **options)
    files = [folder / name, (folder / name).with_stem(f"{Path(name).stem}_sft")]
    return [[json.loads(line) for line in file.open()] if file.exists() else [] for file in files]


def test_what_is_written(folder: Path) -> None:
    one, alone = record("image", "What?", images=("a.png",)), record("What?", rejected=None)
    pairs, sft = write(folder, [one, Record(**{**vars(alone), "id": "b"})])
    assert pairs == [PAIR | {"id": "a.jsonl:1", "videos": []}]
    asked = {"from": "human", "value": "What?"}
    assert sft == [{"id": "b", "conversations": [asked, GPT["cat"]], "images": [], "videos": []}]
    info = json.loads((folder / "dataset_info.json").read_text())
    assert {name: (entry["file_name"], entry.get("ranking")) for name, entry in info.items()} == {
        "pairs": ("pairs.jsonl", True),
        "pairs_sft": ("pairs_sft.jsonl", None),
    }
    assert info["pairs"]["columns"]["rejected"] == "rejected" and "chosen" not in info["pairs_sft"]["columns"]


def test_there_and_back(folder: Path) -> None:
    write(folder, cases.PAIRS)
    for number, source in enumerate(("pairs.jsonl", "dataset_info.json")):
        convert.read(folder / source, "llama_factory", folder / f"{number}.jsonl", progress=False)
        found = [one.to_json() for one in RecordFile(folder / f"{number}.jsonl")]
        assert all(one.pop("meta") for one in found)
        assert found == [one.to_json() for one in cases.PAIRS]


def test_one_kind_of_records_is_one_file(folder: Path) -> None:
    pairs, sft = write(folder, cases.ALONE, "alone.jsonl")
    assert len(pairs) == len(cases.ALONE) and not sft
    info = json.loads((folder / "dataset_info.json").read_text())
    assert list(info) == ["alone"] and "ranking" not in info["alone"]


def test_other_entries_stay(folder: Path) -> None:
    other = {"other": {"file_name": "x.json"}, "pairs": {"file_name": "pairs.jsonl", "formatting": "alpaca"}}
    (folder / "dataset_info.json").write_text(json.dumps(other))
    write(folder, [record("What?")])
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["other"] == other["other"] and info["pairs"]["formatting"] == "sharegpt"


@pytest.mark.parametrize(
    ("info", "name", "complaint"),
    [
        ({"pairs": {"file_name": "mine.json"}}, "pairs.jsonl", "field 'pairs': describes another file"),
        ([], "pairs.jsonl", "expected an object of data sets"),
        ({}, "pairs.json", "must end in .jsonl"),
    ],
)
def test_files_that_are_not_written(folder: Path, info: object, name: str, complaint: str) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError) as error:
        write(folder, [record("What?")], name)
    assert complaint in str(error.value)
    assert json.loads((folder / "dataset_info.json").read_text()) == info and not (folder / name).exists()


def test_the_file_of_a_part_is_not_overwritten(folder: Path) -> None:
    (folder / "pairs_sft.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"pairs_sft\.jsonl: is there already"):
        write(folder, [record("What?"), cases.ALONE[0]])
    assert (folder / "pairs_sft.jsonl").read_text() == "mine" and not (folder / "pairs.jsonl").exists()


SYSTEM = {"role": "system", "content": [{"type": "image"}, {"type": "text", "text": "Be brief."}]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("Is <image> a tag?"), "tags"),
        (record("<ima", "ge>", "image", images=("a.png",)), "tags"),
        (record("What?", chosen=says("It says <video>.")), "tags"),
        (record("What <audio>?"), "tags"),
        (record("image", images=("gone.png",)), "missing"),
        (Record("b", [user_message("What?"), user_message("Well?")], **SIDES), "turns"),
        (Record("b", [SYSTEM, user_message("What?")], images=("a.png",), **SIDES), "tags"),
        (Record("b", [user_message("?"), {"role": "tool", "content": [{"type": "text", "text": "."}]},
                      user_message("?")], **SIDES), "turns"),
    ],
)  # fmt: skip
def test_records_that_are_not_written(folder: Path, bad: Record, reason: str) -> None:
    pairs, _ = write(folder, [cases.PAIRS[0], bad])
    assert [row["id"] for row in pairs] == ["none"]
    assert f'"reason": "{reason}"' in convert.drop_list(folder / "pairs.jsonl").read_text()
