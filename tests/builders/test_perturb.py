"""Negative clips: which names they have, what becomes of the record, and which sources give none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted import source

from mmalign.builders import Drop, Unit, build, load, main
from mmalign.builders.perturb import KINDS, ordered
from mmalign.media import FrameChoice, Part, open_clip
from mmalign.media.perturb import Plan, deal, plans
from mmalign.records import InputError, Record, assistant_message, read_jsonl, user_message, write_jsonl
from tests.tiny import noise, write_clip

FILES = ("a.avi", "b.avi", "long.avi", "short.avi", "still.avi", "cut.avi")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a and b of nine frames, long of 16, short of three, still of one picture, cut that cannot be decoded."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name, count in (("a", 9), ("b", 9), ("long", 16), ("short", 3)):
        write_clip(folder / f"{name}.avi", [noise(rng) for _ in range(count)])
    write_clip(folder / "still.avi", [Image.new("RGB", (64, 64), "red")] * 9)
    (folder / "cut.avi").write_bytes((folder / "a.avi").read_bytes()[:300])
    return folder


def clip(name: str, videos: tuple[str, ...] = ("a.avi",), answer: str | None = "A cat.", **fields: object) -> Record:
    chosen = None if answer is None else [assistant_message(answer)]
    return Record(name, [user_message("What happens?", videos=len(videos))], chosen, videos=videos, **fields)


def made(root: Path, *records: Record, **options: object) -> dict[str, list[Record] | Drop]:
    results = dict(load("perturb", **options)(Unit(records, root), None))
    assert results.keys() == {record.id for record in records}
    return results


def orders(records: list[Record] | Drop) -> list[tuple[int, ...] | None]:
    assert not isinstance(records, Drop), records
    return [Part.of(name).order for record in records for name in record.rejected_videos]


def test_records(root: Path):
    given = clip(
        "s", rejected=[assistant_message("A dog.")], rejected_spans=((2, 5),), meta={"x": 1}, weight=2.0, difficulty=9.0
    )
    found = made(root, given, kinds="reverse,drop", seed=3)["s"]
    wanted = ["reverse-r2", "reverse-r4", "reverse-r8", "drop-r2", "drop-r4", "drop-r8"]
    assert [record.id for record in found] == [f"s#{variant}" for variant in wanted]
    names = [f"a.avi#order={order}:8" for order in ("4,5,6,7,0,1,2,3", "6,7,4,5,2,3,0,1", "7,6,5,4,3,2,1,0")]
    assert [record.rejected_videos[0] for record in found[:3]] == names
    assert [record.difficulty for record in found] == [1 / 2, 1 / 4, 1 / 8] * 2
    for record in found:
        assert Record.parse(record.to_json()) == record
        assert (record.videos, record.chosen, record.rejected, record.rejected_spans, record.weight) == (
            given.videos, given.chosen, given.rejected, given.rejected_spans, 2.0,
        )  # fmt: skip
        assert record.meta["seed"] == 3 and record.meta["source"] == {"x": 1}
        plan = Plan.of(record.meta["plan"])
        assert Part.of(record.rejected_videos[0]) == Part(order=plan.order, parts=8)
    assert found[2].meta["plan"]["levels"] == [8, 16]
    assert [load("perturb").outcome(record) for record in found[1:3]] == ["reverse r 4", "reverse r 8, 16"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_an_order_of_equal_parts(root: Path, kind: str):
    for order in orders(made(root, clip("s"), kinds=kind)["s"]):
        assert order and set(order) <= set(range(8)) and order != tuple(range(8))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_name_shows_is_what_the_plan_shows(root: Path, kind: str):
    """Two frames in each part: as many are read as are shown, and they are those of the plan."""
    for record in made(root, clip("s", ("long.avi",)), kinds=kind)["s"]:
        plan = Plan.of(record.meta["plan"])
        wanted = [place for part in plan.apply(deal(range(16), 8)) for place in part]
        shown = open_clip(record.rejected_videos[0], root, FrameChoice(count=16))
        assert list(shown.indices) == wanted
        own = open_clip("long.avi", root, FrameChoice(count=16)).frames
        assert [frame.tobytes() for frame in shown.frames] == [frame.tobytes() for frame in plan.show(own)]


def test_the_plans_are_those_of_the_seed_and_the_source(root: Path):
    sources = [clip(f"s{i}", ("b.avi",) if i else ("a.avi",)) for i in range(4)]
    together = made(root, *sources, kinds="shuffle", levels="4,8")
    assert len({str(orders(records)) for records in together.values()}) == 4
    for each in sources:
        assert made(root, each, kinds="shuffle", levels="4,8")[each.id] == together[each.id]
    other = made(root, sources[0], kinds="shuffle", levels="4,8", seed=1)["s0"]
    assert orders(other) != orders(together["s0"])


def test_a_part_of_a_file_stays_that_part(root: Path):
    found = made(root, clip("s", ("a.avi#t=0,0.8", "b.avi")), kinds="reverse", levels="2", parts=4)["s"]
    assert found[0].rejected_videos == ("a.avi#t=0,0.8&order=2,3,0,1:4", "b.avi#order=2,3,0,1:4")
    assert Part.of(found[0].rejected_videos[0]) == Part(0.0, 0.8, (2, 3, 0, 1), 4)
    [reverse] = plans(["reverse"], 2, seed=0)
    for name in ("odd#1.mp4", "a.mp4#t=3", "a.mp4#t=,4"):
        part = Part.of(ordered(name, reverse))
        assert (part.start, part.end) == (Part.of(name).start, Part.of(name).end)
        assert (part.order, part.parts) == ((1, 0), 2)


def test_pictures_beside_a_clip_stay_as_they_are(root: Path):
    blocks = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}]
    answer = [assistant_message("A cat.")]
    mixed = Record("m", [{"role": "user", "content": blocks}], answer, images=("a.png",), videos=("a.avi",))
    found = made(root, mixed, kinds="reverse", levels="2")["m"][0]
    assert found.rejected_images == () and found.negative_media == (("a.png",), found.rejected_videos)
    assert Record.parse(found.to_json()) == found


def test_some_of_a_source_s_records(root: Path):
    sources = [clip(f"s{i}") for i in range(40)]
    everything, some = made(root, *sources), made(root, *sources, per_source=2)
    chosen = set()
    for name, records in some.items():
        assert len(records) == 2 and [record for record in everything[name] if record in records] == records
        chosen |= {record.id.partition("#")[2] for record in records}
    assert chosen == {record.id.partition("#")[2] for record in everything["s0"]}, "any of them can be drawn"
    assert len(made(root, sources[0], per_source=100)["s0"]) == len(everything["s0"]) == 8


def test_drops(root: Path):
    sources = [
        source("no_clip", "A cat."),
        clip("no_answer", answer=None),
        clip("has_negative", rejected_videos=("b.avi",)),
        clip("has_order", ("a.avi#order=1,0:2",)),
        clip("missing", ("gone.avi",)),
        clip("truncated", ("a.avi", "cut.avi")),
        clip("bad_path", ("../a.avi",)),
        clip("out_of_range", ("a.avi#t=1..2",)),
        clip("too_short", ("short.avi",)),
        clip("still", ("still.avi",)),
    ]
    found = made(root, *sources)
    assert {name: drop.reason for name, drop in found.items()} == {name: name for name in found}
    assert found["too_short"].detail == "3 frames, fewer than 8 parts: short.avi"
    assert not isinstance(made(root, clip("s", ("short.avi",)), parts=3)["s"], Drop)
    assert not isinstance(made(root, clip("s", ("still.avi", "a.avi")))["s"], Drop), "one of them moves"


@pytest.mark.parametrize("options", [
    {"kinds": ""}, {"kinds": "twist"}, {"kinds": "mask"}, {"kinds": "drop,splice"}, {"levels": "1"}, {"levels": "2.5"},
    {"levels": ""}, {"levels": "2;4"}, {"parts": 1}, {"per_source": 0},
])  # fmt: skip
def test_options_out_of_range(options: dict):
    with pytest.raises(InputError) as caught:
        load("perturb", **options)
    assert caught.value.field == next(iter(options))


def test_lists_in_options_are_read_as_people_write_them(root: Path):
    wanted = made(root, clip("s"), kinds="drop,reverse", levels="2,4")["s"]
    found = made(root, clip("s"), kinds=" drop, reverse ", levels="2 4")["s"]
    assert [record.to_json() for record in found] == [record.to_json() for record in wanted]


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    write_jsonl(data, [clip("s"), clip("t", ("gone.avi",)), {"video": "b.avi", "question": "What?", "answer": "A."}])
    arguments = ["--data", str(data), "--output", str(output), "--media_root", str(root), "--kinds", "reverse"]
    assert main("perturb", arguments) == 0
    said = capsys.readouterr().out
    assert "6 records from 2 of 3 sources" in said
    assert re.search(r"reverse r 8, 16 +2 +33.3%", said) and re.search(r"dropped: missing +1 ", said)
    assert sorted(file.name for file in root.iterdir()) == sorted(FILES)
    records = list(read_jsonl(output, Record.parse))
    assert records[0].meta["builder"] == "perturb" and records[0].meta["options"]["parts"] == 8


def test_batching_changes_nothing(root: Path, tmp_path: Path):
    sources = [clip(f"s{i}") for i in range(3)]
    for size in (1, 3):
        output = tmp_path / f"{size}.jsonl"
        build(load("perturb"), sources, None, output, media_root=root, unit_size=size, progress=False)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()


def test_a_folder_with_all_kinds_of_files_is_built_to_its_end(shared_data: Path, tmp_path: Path) -> None:
    """Real clips, a broken one and short ones among them: each is a source of records or a drop with a reason."""
    names = sorted(file.name for file in (shared_data / "videos").iterdir() if file.suffix in (".mp4", ".mov", ".mkv"))
    rows = [{"id": name, "video": name, "question": "What happens?", "answer": "Something."} for name in names]
    write_jsonl(tmp_path / "clips.jsonl", rows)
    command = ["--data", tmp_path / "clips.jsonl", "--media_root", shared_data / "videos"]
    assert main("perturb", [str(word) for word in (*command, "--output", tmp_path / "out.jsonl")]) == 0
    drops = read_jsonl(tmp_path / "out.jsonl.run" / "drops.jsonl", lambda row, **_: row)
    assert {drop["source"]: drop["reason"] for drop in drops} == {
        "corrupted.mp4": "truncated",
        "unordered.mov": "too_short",
        "video_0.mov": "too_short",
        "video_90.mov": "too_short",
    }
    kept = {record.videos[0] for record in read_jsonl(tmp_path / "out.jsonl", Record.parse)}
    assert len(names) == 10 and kept == {*names} - {"corrupted.mp4", "unordered.mov", "video_0.mov", "video_90.mov"}
