"""The core of `mmalign convert`, on formats made for the test; and the verb."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest

from mmalign import cli, plugins
from mmalign.interop import _tables, convert
from mmalign.records import InputError, Record, RecordFile, read_jsonl, user_message, write_jsonl
from tests.conftest import REPOSITORY
from tests.interop.reading import picture, put_pictures, put_rows, says

OWN = '''
"""Questions and answers, for a test."""

from mmalign.interop.formats import Unfit

READS = {"id", "q", "a", "images", "bad"}
CARRIES = ("images", "chosen", "chosen_scores")
NEEDS = ("chosen",)


def record(row, media):
    if row.get("bad"):
        raise Unfit("bad", row["bad"])
    images = [media.picture(name) for name in row.get("images", [])]
    chosen = [{"role": "assistant", "content": row["a"]}]
    return {"id": row.get("id"), "prompt": row["q"], "chosen": chosen, "images": images}


def row(record, media):
    if record.id == "bad":
        raise Unfit("bad", "no row")
    text = record.chosen[0]["content"][0]["text"]
    return {"a": text, "images": [str(media.path(name)) for name in record.images], **record.chosen_scores}


def lost(record):
    return [f"chosen_scores.{name}" for name in record.chosen_scores if name != "reward"]
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


def rows_of(path: Path) -> list[dict]:
    return list(read_jsonl(path, lambda row, file, line: row))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rows_become_records_and_the_rest_is_listed(tmp_path: Path, own: str) -> None:
    rows = [
        {"id": "a", "q": "Q?", "a": "A"},
        {"id": "b", "q": "Q?", "a": "A", "bad": "says why"},
        {"id": "a", "q": "Q?", "a": "B"},
        {"id": "a#1", "q": "Q?", "a": "C"},
        {"id": 7, "q": "Q?", "a": "D"},
        {"id": "", "q": "Q?", "a": "E"},
        {"q": "Q?", "a": " "},
    ]
    output = tmp_path / "out.jsonl"
    summary = convert.read(put_rows(tmp_path / "in.jsonl", rows), own, output, progress=False)
    records = list(read_jsonl(output, Record.parse))
    assert [record.id for record in records] == ["a", "a#1", "a#1#1", "7", "in.jsonl:6"]
    assert records[0] == Record("a", [user_message("Q?")], says("A"), meta={"format": "own", "place": "in.jsonl:1"})
    assert rows_of(convert.drop_list(output)) == [
        {"source": "in.jsonl:2", "reason": "bad", "detail": "says why"},
        {
            "source": "in.jsonl:7",
            "reason": "invalid",
            "detail": "field 'chosen[0].content': is empty: give the response a text, or leave the field out",
        },
    ]
    assert (summary.rows, summary.kept, summary.drops) == (7, 5, {"bad": 1, "invalid": 1})


def test_columns_that_are_not_read_are_counted(tmp_path: Path, own: str, capsys) -> None:
    rows = [
        {"q": "Q?", "a": "A", "note": "x", "group": "g", "rejected_images": [], "weight": None},
        {"q": "Q?", "a": "A", "note": "", "meta": {"x": 1}},
        {"q": "Q?", "a": "A", "note": 0},
        7,
    ]
    arguments = ["convert", str(put_rows(tmp_path / "in.jsonl", rows[:3])), "--from", own, "--output"]
    assert cli.main([*arguments, str(tmp_path / "out.jsonl")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  not read: group                         1   33.3%",
        "  not read: meta                          1   33.3%",
        "  not read: note                          2   66.7%",
    ]


@pytest.mark.parametrize("name", ["rejected", "rejected_messages", "rejected_images", "weight", "videos"])
def test_columns_that_training_learns_from_are_not_left_unread_unasked(tmp_path: Path, own: str, name: str) -> None:
    source = put_rows(tmp_path / "in.jsonl", [{"q": "Q?", "a": "A"}, {"q": "Q?", "a": "B", name: ["x"]}])
    output = tmp_path / "out.jsonl"
    with pytest.raises(InputError) as error:
        convert.read(source, own, output, progress=False)
    assert f"own does not read {name} (at in.jsonl:2), and training learns from it" in str(error.value)
    assert not output.exists()
    assert cli.main(["convert", str(source), "--from", own, "--output", str(output), "--drop_extras"]) == 0
    assert len(rows_of(output)) == 2


def test_a_tuple_ends_in_the_source_s_own_row(tmp_path: Path, own: str) -> None:
    with open(own, "a") as file:
        file.write('\n\ndef rows(source):\n    yield "here", (1, {"q": "Q?", "rejected": "B"})\n')
        file.write('\n\ndef reads(row):\n    return {"q"} if row[0] else {"q", "rejected"}\n')
    with pytest.raises(InputError, match="own does not read rejected"):
        convert.read(tmp_path, own, tmp_path / "out.jsonl", progress=False)


def test_nothing_dropped_leaves_no_list(tmp_path: Path, own: str) -> None:
    output = tmp_path / "new" / "out.jsonl"
    convert.read(put_rows(tmp_path / "in.jsonl", [{"q": "Q?", "a": "A"}]), own, output, progress=False)
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]


def test_order_is_that_of_the_source_and_rows_are_taken_as_they_are_needed() -> None:
    taken, pending = [], 0

    def rows():
        for number in range(200):
            taken.append(number)
            yield str(number), number

    def work(place, row):
        time.sleep(0.002 * (row % 3))
        return row

    for done, (place, result) in enumerate(convert._ahead(work, rows())):
        assert (place, result) == (str(done), done)
        pending = max(pending, len(taken) - done)
    assert done == 199 and pending <= convert._AHEAD + 1


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json"])
def test_a_file_or_a_folder_of_shards(tmp_path: Path, own: str, ending: str) -> None:
    rows = [{"id": str(i), "q": "Q?", "a": "A"} for i in range(150)]
    put_rows(tmp_path / "in" / "b" / f"1.{ending}", rows[140:])
    put_rows(tmp_path / "in" / f"a.{ending}", rows[:140])
    put_rows(tmp_path / "in" / ".cache" / f"a.{ending}", rows)
    convert.read(tmp_path / "in", own, tmp_path / "out.jsonl", progress=False)
    records = list(read_jsonl(tmp_path / "out.jsonl", Record.parse))
    assert [record.id for record in records] == [row["id"] for row in rows]
    assert [record.meta["place"] for record in records][139:141] == [f"a.{ending}:140", f"b/1.{ending}:1"]


def test_json_lines_may_be_called_json_and_a_large_list_is_announced(tmp_path: Path, monkeypatch, capsys) -> None:
    lines = put_rows(tmp_path / "a.jsonl", [{"a": 1}, {"a": 2}]).rename(tmp_path / "a.json")
    assert list(_tables.rows(lines)) == [("a.json:1", {"a": 1}), ("a.json:2", {"a": 2})]
    monkeypatch.setattr(_tables, "LARGE", 0)
    assert list(_tables.rows(put_rows(tmp_path / "b.json", [1]))) == [("b.json:1", 1)]
    assert "b.json: a JSON list of 0.0 GiB is loaded whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", b'{"q": "Q?", "a": "A"}\n{"q": ', "a.jsonl:2: malformed JSON"),
        ("a.json", b'[{"q": "Q?",\n "a" "A"}]', "a.json:2: malformed JSON at column 6"),
        ("a.json", b"[\xff]", "a.json: not UTF-8 at byte 2"),
        ("a.json", b'"text"', "a.json: expected a list of rows"),
        ("a.json", b"[" * 100_000, "a.json: malformed JSON"),
        ("a.parquet", b"no parquet", "a.parquet: cannot be read as parquet after row 0: "),
        ("a.csv", b"q,a", "a.csv: ends in none of .parquet, .jsonl, .json"),
        ("a.jsonl", b"", "a.jsonl: nothing in it can be used as own; it holds no row"),
        ("a.jsonl", b'{"bad": "why"}', "nothing in it can be used as own; the first of 1 rows: a.jsonl:1: bad: why"),
    ],
)
def test_malformed_input_ends_it_and_leaves_nothing(
    tmp_path: Path, own: str, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as error:
        convert.read(tmp_path / name, own, tmp_path / "out.jsonl", progress=False)
    assert problem in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_sources_and_formats_that_are_not_there(tmp_path: Path, own: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        convert.read(tmp_path / "gone", own, tmp_path / "out.jsonl", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file in it ends in any of"):
        convert.read(tmp_path / "empty", own, tmp_path / "out.jsonl", progress=False)
    with pytest.raises(InputError, match="did you mean 'rlaif_v'"):
        convert.read(tmp_path, "rlaifv", tmp_path / "out.jsonl", progress=False)
    with pytest.raises(InputError, match="the format realign cannot be written"):
        convert.write(tmp_path, "realign", tmp_path / "out.json", progress=False)
    (tmp_path / "out.jsonl").touch()
    with pytest.raises(InputError, match=r"out\.jsonl: is there already"):
        convert.read(tmp_path / "empty", own, tmp_path / "out.jsonl", progress=False)


# --- where the media are ----------------------------------------------------------------------------------------------


def read_images(tmp_path: Path, own: str, images: list[str], **options: object) -> tuple[Path, list[str]]:
    source = put_rows(tmp_path / "in" / "a.jsonl", [{"q": "Q?", "a": "A", "images": images}])
    output = tmp_path / "runs" / "out.jsonl"
    summary = convert.read(source, own, output, progress=False, **options)
    [record] = RecordFile(output, summary.media_root)
    assert all(path.is_file() for path in RecordFile(output, summary.media_root).media(record))
    return summary.media_root, list(record.images)


def data_uri(color: str) -> str:
    import base64

    return "data:image/png;base64," + base64.b64encode(picture(color)).decode()


def test_paths_start_from_the_source_s_folder_and_written_pictures_from_the_output_s(tmp_path: Path, own: str) -> None:
    put_pictures(tmp_path / "in", "x/a.png")
    assert read_images(tmp_path, own, ["x/a.png"]) == (tmp_path / "in", ["x/a.png"])
    (tmp_path / "runs" / "out.jsonl").unlink()
    root, [name] = read_images(tmp_path, own, [data_uri("red")])
    assert root == tmp_path / "runs" and (root / name).read_bytes() == picture("red") and name.startswith("media/")


def test_media_that_are_all_missing_hint_at_the_media_root(tmp_path: Path, own: str) -> None:
    hint = f"; names start from {tmp_path / 'in'}: is --media_root right?"
    with pytest.raises(InputError, match="missing: .*gone.png") as error:
        read_images(tmp_path, own, ["gone.png"])
    assert str(error.value).endswith(hint)
    with pytest.raises(InputError, match="nothing in it can be used") as error:
        read_images(tmp_path, own, ["../gone.png"])
    assert "is --media_root right" not in str(error.value)


def test_paths_and_written_pictures_need_one_folder_that_holds_both(tmp_path: Path, own: str) -> None:
    put_pictures(tmp_path / "in", "x/a.png")
    with pytest.raises(InputError, match="media_output.*some pictures are files below"):
        read_images(tmp_path, own, ["x/a.png", data_uri("red")])
    assert not (tmp_path / "runs" / "out.jsonl").exists()
    together = {"media_root": tmp_path / "in", "media_output": tmp_path / "in" / "written"}
    root, names = read_images(tmp_path, own, ["x/a.png", data_uri("red")], **together)
    assert root == tmp_path / "in" and names[1].startswith("written/")


def test_a_folder_for_written_pictures_elsewhere_is_the_media_root(tmp_path: Path, own: str) -> None:
    root, [name] = read_images(tmp_path, own, [data_uri("red")], media_output=tmp_path / "store")
    assert root == tmp_path / "store" and "/" not in name


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    put_pictures(tmp_path, "a.png")
    prompt = [user_message("Q?", images=1)]
    records = [
        Record("a", prompt, says("A"), images=("a.png",), chosen_scores={"reward": 1.0}, group="g"),
        Record("b", prompt, says("B"), images=("a.png",), meta={"x": 1}),
    ]
    write_jsonl(tmp_path / "pairs.jsonl", records)
    return tmp_path / "pairs.jsonl"


def change(path: Path, line: int, **fields: object) -> None:
    rows = rows_of(path)
    rows[line].update(fields)
    put_rows(path, rows)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_records_become_rows(tmp_path: Path, own: str, pairs: Path, ending: str) -> None:
    target = tmp_path / f"out.{ending}"
    summary = convert.write(pairs, own, target, progress=False)
    rows = json.loads(target.read_text()) if ending == "json" else rows_of(target)
    image = str(tmp_path / "a.png")
    assert rows == [{"a": "A", "images": [image], "reward": 1.0}, {"a": "B", "images": [image]}]
    assert (summary.rows, summary.kept) == (2, 2)
    assert summary.left_out == {"id": 2, "group": 1, "meta": 1}


def test_what_training_learns_from_is_not_left_out_unasked(tmp_path: Path, own: str, pairs: Path) -> None:
    target = tmp_path / "out.json"
    change(pairs, 0, weight=2, chosen_scores={"reward": 1, "style": 2}, rejected_images=["a.png"])
    change(pairs, 1, weight=3)
    with pytest.raises(InputError) as error:
        convert.write(pairs, own, target, progress=False)
    said = "chosen_scores.style (of 1 records), rejected_images (of 1), weight (of 2), and training learns from it"
    assert f"own cannot carry {said}" in str(error.value) and not target.exists()
    summary = convert.write(pairs, own, target, drop_extras=True, progress=False)
    assert summary.left_out == {
        "id": 2, "group": 1, "meta": 1, "weight": 2, "rejected_images": 1, "chosen_scores.style": 1,
    }  # fmt: skip
    assert summary.kept == 2


def test_a_record_that_nothing_is_left_of_is_dropped(tmp_path: Path, own: str, pairs: Path) -> None:
    change(pairs, 0, id="bad")
    prompt = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Q?"}]}]
    with pairs.open("a") as file:
        file.write(json.dumps({"id": "c", "prompt": prompt, "chosen": says("C"), "videos": ["c.mp4"]}) + "\n")
        file.write(json.dumps({"id": "d", "prompt": "Q?", "chosen": says("D"), "images": ["gone.png"]}) + "\n")
    target = tmp_path / "out.jsonl"
    summary = convert.write(pairs, own, target, drop_extras=True, progress=False)
    assert (summary.rows, summary.kept) == (4, 1) and len(rows_of(target)) == 1
    listed = [(drop["source"], drop["reason"]) for drop in rows_of(convert.drop_list(target))]
    assert listed == [("pairs.jsonl:1", "bad"), ("pairs.jsonl:3", "invalid"), ("pairs.jsonl:4", "missing")]


def test_a_record_that_lacks_what_the_format_needs_is_refused(tmp_path: Path, own: str, pairs: Path) -> None:
    rows = rows_of(pairs)
    rows[1]["rejected"] = rows[1].pop("chosen")
    put_rows(pairs, rows)
    with pytest.raises(InputError, match=r"field 'chosen': own needs chosen, which 1 of 2 records do not have"):
        convert.write(pairs, own, tmp_path / "out.json", drop_extras=True, progress=False)


def test_nothing_that_can_be_written_leaves_nothing(tmp_path: Path, own: str, pairs: Path) -> None:
    (tmp_path / "a.png").unlink()
    said = r"nothing in it can be used for own; the first of 2 rows: pairs\.jsonl:1: mis.* is --media_root right\?"
    with pytest.raises(InputError, match=said):
        convert.write(pairs, own, tmp_path / "out.json", progress=False)
    assert not list(tmp_path.glob("*out*"))
    with pytest.raises(InputError, match=r"must end in \.jsonl or \.json"):
        convert.write(pairs, own, tmp_path / "out.txt", progress=False)


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb_there_and_back(tmp_path: Path, own: str, capsys) -> None:
    put_pictures(tmp_path / "in", "a.png")
    rows = [{"q": "Q?", "a": "A", "images": ["a.png"]}, {"bad": "why"}, {"q": "Q?", "a": "B", "images": ["a.png"]}]
    source, output = put_rows(tmp_path / "in" / "a.jsonl", rows), tmp_path / "out.jsonl"
    assert cli.main(["convert", str(source), "--from", own, "--output", str(output)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{output}: 2 of 3 rows",
        "  dropped: bad                            1   33.3%",
        f"what was dropped, and why: {output}.drops.jsonl",
        f"media paths start from {tmp_path / 'in'}: train with --media_root {tmp_path / 'in'}",
    ]
    back = ["convert", str(output), "--to", own, "--output", str(tmp_path / "b.json"), "--media_root"]
    assert cli.main([*back, str(tmp_path / "in")]) == 0
    assert "left out: meta                          2  100.0%" in capsys.readouterr().out


def test_options_of_a_format_go_to_its_rows(tmp_path: Path, own: str) -> None:
    with open(own, "a") as file:
        file.write(
            '\nOPTIONS = {"answer": "what every row says"}\n\n\n'
            'def rows(source, *, answer="A"):\n    yield "here", {"q": "Q?", "a": answer}\n'
        )
    arguments = ["convert", "x", "--from", own, "--output", str(tmp_path / "out.jsonl"), "--option"]
    assert cli.main([*arguments, "answer=B=C"]) == 0
    [record] = read_jsonl(tmp_path / "out.jsonl", Record.parse)
    assert (record.id, record.chosen) == ("here", says("B=C"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from", "rrpo", "--option", "split"], "field 'option': expected NAME=VALUE, got 'split'"),
        (["--from", "rrpo", "--option", "split=x"], "field 'option': rrpo has no option 'split' (it has none)"),
        (["--to", "rrpo", "--option", "split=x"], "field 'option': goes with --from"),
        (["--to", "rrpo", "--no_media"], "field 'no_media': goes with --from"),
        (["--to", "rrpo", "--media_output", "m"], "field 'media_output': goes with --from"),
    ],
)
def test_flags_that_do_not_go_together(capsys, arguments: list[str], complaint: str) -> None:
    assert cli.main(["convert", "x", *arguments, "--output", "y"]) == 2
    assert complaint in capsys.readouterr().err


def test_the_page_s_commands_can_be_parsed() -> None:
    page = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    commands = [line.split("#")[0].split()[2:] for line in page.splitlines() if line.startswith("    mmalign convert ")]
    assert len(commands) >= 4
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    for command in commands:
        options = parser.parse_args(command)
        assert (options.source or options.target) in plugins.names(convert.FORMATS)


def test_help_and_the_page_list_every_format(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["convert", "--help"])
    text = capsys.readouterr().out
    page = (REPOSITORY / "docs" / "formats.md").read_text(encoding="utf-8")
    names = plugins.names(convert.FORMATS)
    assert len(names) >= 6
    for name in names:
        module = plugins.find_module(convert.FORMATS, name)
        reads, writes = hasattr(module, "record"), hasattr(module, "row")
        assert reads or writes, f"{name} is no format"
        assert not writes or module.CARRIES, f"{name} does not say what it carries"
        assert not reads or hasattr(module, "READS") or hasattr(module, "reads"), f"{name} does not say what it reads"
        said = ", ".join(way for way, can in (("reads", reads), ("writes", writes)) if can)
        assert any(line.startswith(f"  {name} ") and line.endswith(f"({said})") for line in text.splitlines())
        assert f"\n| `{name}` | {'yes' if reads else '–'} | {'yes' if writes else '–'} |" in page, f"docs: {name}"
