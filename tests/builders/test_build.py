"""Building to the end: the command, its output, a kill in the middle, several ranks, broken input."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from scripted import Scripted, media, source

from mmalign import backbones, builders
from mmalign.builders import build, load, main
from mmalign.media import open_image
from mmalign.records import InputError, Record, read_jsonl, text_of, user_message, validate, write_jsonl
from tests import families
from tests.conftest import REPOSITORY
from tests.tiny import environment, write_model

CAPTION = "A large red circle is at the top. There is a small blue star on the right."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve sources, of which the seventh has a picture that is cut short."""
    root = tmp_path / "photos"
    root.mkdir()
    media(root)
    sources = [source(f"s{i}", CAPTION, ("cut.png" if i == 6 else "a.png",)) for i in range(12)]
    write_jsonl(root / "sources.jsonl", sources)
    return root / "sources.jsonl"


def arguments(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    limits = ["--max_sentence_tokens", "8", "--max_answer_tokens", "12", "--unit_size", "1"]
    return ["--model", str(model), "--data", str(data), "--output", str(output), *limits, *more]


def test_command(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "pairs" / "pairs.jsonl"
    assert main("bdhs", arguments(model, data, output, "--local_rank=0")) == 0
    said = capsys.readouterr().out
    assert f"{output}: 11 records from 11 of 12 sources" in said
    assert f"train with --media_root {data.parent}" in said
    [dropped] = [line.split() for line in said.splitlines() if "dropped" in line]
    assert dropped == ["dropped:", "truncated", "1", "8.3%"]
    assert not list(validate(output, data.parent, open_image))
    records = list(read_jsonl(output, Record.parse))
    assert [record.id for record in records] == [f"s{i}#bdhs" for i in range(12) if i != 6]
    assert records[0].meta["builder"] == "bdhs" and records[0].meta["options"]["rho_th"] == 0.99
    assert len(records[0].meta["model"]) == 16
    [drop] = map(json.loads, Path(f"{output}.run", "drops.jsonl").read_text().splitlines())
    assert drop["source"] == "s6" and "cut.png" in drop["detail"]


def test_output_beside_the_media_needs_no_hint(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = data.parent / "pairs.jsonl"
    assert main("bdhs", arguments(model, data, output)) == 0
    assert "--media_root" not in capsys.readouterr().out
    assert main("bdhs", arguments(model, data, output)) == 0
    assert "already complete" in capsys.readouterr().err
    assert main("bdhs", arguments(model, data, output, "--rho_th", "0.5")) == 2
    assert "options.rho_th: 0.99 -> 0.5" in capsys.readouterr().err
    assert main("bdhs", arguments(model, data, output, "--batch_size", "2")) == 0, "that is no part of the data"


def test_kill_and_go_on(model: Path, data: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert main("bdhs", arguments(model, data, whole)) == 0
    script = [sys.executable, REPOSITORY / "data_builders" / "bdhs.py", *arguments(model, data, cut)]
    process = subprocess.Popen(script, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shard = Path(f"{cut}.run", "shard-00000.jsonl")
    deadline = time.monotonic() + 300
    while finished(shard) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not cut.exists() and 3 <= finished(shard) < 12, "killed in the middle"
    assert main("bdhs", arguments(model, data, cut)) == 0
    assert cut.read_bytes() == whole.read_bytes()


def finished(shard: Path) -> int:
    return sum(line.startswith(b"#") for line in shard.read_bytes().splitlines()) if shard.exists() else 0


def test_two_ranks(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert main("bdhs", arguments(model, data, one)) == 0
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        assert not two.exists()
        assert main("bdhs", arguments(model, data, two)) == 0
        assert ("11 records" in capsys.readouterr().out) == (rank == "0"), "who finishes last says what came of it"
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("wrong, problem", [
    (["--rho_t", "1"], "no such flag: --rho_t; did you mean rho_th?"),
    (["--rho_th", "2"], "field 'rho_th': must be from 0 to 1"),
    (["--batch_size", "0"], "field 'batch_size': must be 1 or more"),
    (["--encoder", "mpnet"], "field 'encoder': no such encoder"),
    (["--data", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    (["--model", "nowhere"], "nowhere: cannot load"),
])  # fmt: skip
def test_wrong_input(
    wrong: list[str], problem: str, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("bdhs", arguments(model, data, tmp_path / "pairs.jsonl", *wrong)) == 2
    assert f"mmalign build bdhs: {problem}" in capsys.readouterr().err


MINE = """
from dataclasses import dataclass
from mmalign.builders import Drop
from mmalign.plugins import option
from mmalign.records import Record, assistant_message

@dataclass(frozen=True)
class Shout:
    '''Louder.'''

    word: str = option("NO", "What is shouted.")

    def __call__(self, unit, model):
        for record in unit.items:
            made = Record(f"{record.id}#shout", record.prompt, record.chosen, [assistant_message(self.word)],
                          images=record.images)
            yield record.id, [made] if record.id != "s1" else Drop("quiet")
"""


def test_a_builder_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(MINE)
    builder = load(f"{tmp_path}/shout.py:Shout", word="WRONG")
    sources = [source(f"s{i}", CAPTION) for i in range(3)]
    output, model = tmp_path / "pairs.jsonl", Scripted(lambda job, greedy: "")
    summary = build(builder, sources, model, output, media_root=tmp_path, progress=False)
    assert (summary.kept, summary.drops) == (2, {"quiet": 1})
    made = next(read_jsonl(output, Record.parse))
    assert text_of(made.rejected) == "WRONG" and made.meta["options"] == {"word": "WRONG"}
    (tmp_path / "shout.py").write_text(MINE.replace("#shout", "#loud"))
    with pytest.raises(InputError, match="files.*shout.py"):
        build(load(f"{tmp_path}/shout.py:Shout", word="WRONG"), sources, model, output, media_root=tmp_path)


def test_a_text_with_a_file_name_in_it_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(MINE)
    (tmp_path / "scale.py").write_text("")
    sources = [source("s0", CAPTION)]
    for number, word in enumerate([f"{tmp_path}/scale.py:Scale", "As in run.py: what is here?", f"{'long ' * 99}.py:"]):
        output = tmp_path / f"{number}.jsonl"
        build(load(f"{tmp_path}/shout.py:Shout", word=word), sources, None, output, media_root=tmp_path, progress=False)
        files = json.loads(Path(f"{output}.run", "manifest.json").read_text())["identity"]["manifest"]["files"]
        assert [Path(file).name for file in files] == (["shout.py"] if number else ["scale.py", "shout.py"])


def test_where_batch_size_turns_words_a_run_has_one(tmp_path: Path) -> None:
    """In float32 it may change on the way; see also `test_output_beside_the_media_needs_no_hint`."""
    (tmp_path / "shout.py").write_text(MINE)
    builder, sources, model = load(f"{tmp_path}/shout.py:Shout"), [source("s0", CAPTION)], Scripted(lambda *_: "")
    for dtype in ("torch.float32", "torch.bfloat16"):
        model.dtype = dtype
        output = tmp_path / f"{dtype}.jsonl"
        assert build(builder, sources, model, output, media_root=tmp_path, batch_size=4, progress=False).complete
        assert build(builder, sources, model, output, media_root=tmp_path, batch_size=4, progress=False).complete
        if dtype == "torch.float32":
            build(builder, sources, model, output, media_root=tmp_path, batch_size=8, progress=False)
            continue
        with pytest.raises(InputError, match="batch_size: 4 -> 8"):
            build(builder, sources, model, output, media_root=tmp_path, batch_size=8, progress=False)


def test_a_builder_says_what_it_wants_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line asks for a model, takes a server for one, or has no place for either."""
    write_jsonl(tmp_path / "sources.jsonl", [source(f"s{i}", CAPTION) for i in range(3)])
    for wants, given, problem in [
        ("BACKBONE", [], "required: --model"),
        ("BACKBONE", ["--model", "http://127.0.0.1:9/v1#m"], "field 'model': is to be loaded here"),
        ("WRITER", ["--model", "http://127.0.0.1:9/v1"], "field 'model'.*give URL#MODEL"),
        ("NOTHING", ["--model", "m"], "no such flag: --model"),
        ("NOTHING", [], ""),
        ("WRITER", ["--model", "http://127.0.0.1:9/v1#m"], ""),
    ]:
        (tmp_path / "shout.py").write_text(
            MINE.replace("    word: str", f"    wants = {wants!r}.lower()\n\n    word: str")
        )
        output = tmp_path / f"{wants}{len(given)}.jsonl"
        paths = ["--data", str(tmp_path / "sources.jsonl"), "--output", str(output)]
        status = main(f"{tmp_path}/shout.py:Shout", [*paths, *given])
        assert status == (2 if problem else 0)
        assert re.search(problem, capsys.readouterr().err)
    made = next(read_jsonl(output, Record.parse))
    assert made.meta["model"] == "http://127.0.0.1:9/v1#m"


def test_nothing_that_comes_of_it_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first reason is told, and where media are looked for."""
    write_jsonl(tmp_path / "sources.jsonl", [source(f"s{i}", CAPTION, ("none.png",)) for i in range(3)])
    arguments = ["--data", str(tmp_path / "sources.jsonl"), "--output", str(tmp_path / "pairs.jsonl")]
    assert main("crop", arguments) == 1
    said = capsys.readouterr().out
    assert "the first source, s0: missing no such file" in said and "drops.jsonl" in said
    assert f"start from {tmp_path}: is --media_root right?" in said and "train with" not in said
    assert main("crop", [*arguments, "--media_root", str(tmp_path / "nowhere")]) == 2
    assert "field 'media_root': is no folder" in capsys.readouterr().err
    arguments[-1] = str(tmp_path / "sources.jsonl" / "pairs.jsonl")
    assert main("crop", arguments) == 2
    assert f"{tmp_path}/sources.jsonl/pairs.jsonl.run: Not a directory" in capsys.readouterr().err


def test_photographs_with_a_model_that_knows_none(model: Path, shared_data: Path, tmp_path: Path) -> None:
    """Every source ends as a record or as a counted drop."""
    backbone = backbones.load(model, device="cpu")
    found = list(builders.sources(shared_data / "photos" / "questions.jsonl"))[:6]
    builder = load("bdhs", max_sentence_tokens=8, max_answer_tokens=12)
    summary = build(
        builder, found, backbone, tmp_path / "pairs.jsonl", media_root=shared_data / "photos", progress=False
    )
    assert summary.complete and summary.kept + sum(summary.drops.values()) == 6 and summary.kept > 0


def test_a_source_that_the_model_cannot_be_shown_costs_itself_alone(data: Path, tmp_path: Path) -> None:
    """Qwen-VL takes no strips, and no question that has its placeholder in it; the others are built as without them."""
    model, root = families.build("qwen2_5_vl"), data.parent
    Image.new("RGB", (1000, 4)).save(root / "strip.png")
    good = [source(f"s{i}", None) for i in range(4)]
    strip = source("strip", None, ("strip.png",))
    marked = replace(source("marked", None), prompt=[user_message(f"{model.marks['image']}?", images=1)])
    options = {"media_root": root, "unit_size": 8, "progress": False}
    builder = load("sample", k=2, max_tokens=4)
    build(builder, good, model, tmp_path / "good.jsonl", **options)
    some = [good[0], strip, good[1], marked, *good[2:]]
    summary = build(builder, some, model, tmp_path / "some.jsonl", **options)
    assert summary.drops == {"refused": 1, "not_encodable": 1}
    assert (tmp_path / "some.jsonl").read_bytes() == (tmp_path / "good.jsonl").read_bytes()
    assert len((tmp_path / "good.jsonl").read_text().splitlines()) == 4
    drops = Path(f"{tmp_path / 'some.jsonl'}.run", "drops.jsonl").read_text()
    assert "images[0]" in drops and "takes no 1000 x 4 pixels" in drops


def test_an_error_that_no_source_is_to_blame_for_ends_the_build(data: Path, tmp_path: Path) -> None:
    def reply(*_: object) -> str:
        raise InputError("no server at this address")

    with pytest.raises(InputError, match="no server"):
        build(load("sample"), [source("s", None)], Scripted(reply), tmp_path / "out.jsonl", media_root=data.parent)
