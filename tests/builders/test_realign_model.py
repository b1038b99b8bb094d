"""Re-Align to the end: pictures of the embedded world, an index of them, and the bundled model, which can see them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmalign import cli
from mmalign.builders import build as build_records
from mmalign.builders import load, main, sources
from mmalign.media import open_image
from mmalign.records import Record, read_jsonl, text_of, validate
from mmalign.scenes import MODEL
from mmalign.scenes.dataset import write_split

COUNT = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("world"), "pairs", COUNT)


@pytest.fixture(scope="module")
def index(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    arguments = ["--model", MODEL, "--images", root / "images", "--media_root", root, "--output", folder]
    assert cli.main(["index", *map(str, arguments)]) == 0
    return folder


def build(root: Path, index: Path, output: Path, *more: str) -> bytes:
    paths = ["--model", MODEL, "--index", index, "--data", root / "sft.jsonl", "--output", output]
    assert main("realign", [*map(str, paths), "--complete_by", "prefix", "--unit_size", "8", *more]) == 0
    return output.read_bytes()


@pytest.fixture(scope="module")
def pairs(root: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    build(root, index, output)
    return output


def test_rejected_answers_name_what_the_neighbour_has(root: Path, pairs: Path) -> None:
    assert not list(validate(pairs, root, open_image))
    objects = json.loads((root / "objects.json").read_text())
    shown, missing = 0, 0
    records = list(read_jsonl(pairs, Record.parse))
    assert len(records) > 0.8 * COUNT
    for record in records:
        [own], [other] = record.images, record.rejected_images
        assert own != other and record.meta["similarity"] < 0.95 and record.meta["image_similarity"] <= 0.95
        wrong = [name for name in names_in(text_of(record.rejected)) if name not in objects[own]]
        assert not [name for name in names_in(text_of(record.chosen)) if name not in objects[own]]
        shown += sum(name in objects[other] for name in wrong)
        missing += len(wrong)
    assert missing >= len(records), "what is not there, at least one thing a record"
    assert shown > missing / 2, "and it is seen, not made up"


def names_in(text: str) -> list[str]:
    words = text.replace(".", "").split()
    named = {f"{color} {shape}" for color, shape in zip(words, words[1:], strict=False) if shape in SHAPES}
    return sorted(named)


SHAPES = ("circle", "square", "triangle", "star", "diamond")


def test_batches_do_not_matter(root: Path, index: Path, pairs: Path, tmp_path: Path) -> None:
    assert build(root, index, tmp_path / "one.jsonl", "--batch_size", "1") == pairs.read_bytes()


def test_two_ranks(root: Path, index: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        output = tmp_path / "two.jsonl"
        paths = ["--model", MODEL, "--index", index, "--data", root / "sft.jsonl", "--output", output]
        assert main("realign", [*map(str, paths), "--complete_by", "prefix", "--unit_size", "8"]) == 0
        assert output.exists() == (rank == "0")
    assert output.read_bytes() == pairs.read_bytes()


def test_names_start_from_where_those_of_the_index_do(root: Path, index: Path, tmp_path: Path) -> None:
    """A folder may move with its pictures; another folder's pictures of the same names have other neighbours."""
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(root / "images", moved / "images")
    shutil.copytree(root / "images", other / "images")
    first, *_, last = sorted((other / "images").iterdir())
    first.write_bytes(last.read_bytes())
    given = sources(root / "sft.jsonl")
    builder = load("realign", index=str(index), visual_only=True)
    summary = build_records(builder, given, None, tmp_path / "moved.jsonl", media_root=moved, progress=False)
    assert summary.kept == len(given)
    summary = build_records(builder, given, None, tmp_path / "other.jsonl", media_root=other, progress=False)
    assert summary.drops == {"other_picture": 1}
    [drop] = (tmp_path / "other.jsonl.run" / "drops.jsonl").read_text().splitlines()
    assert f"the index is of {root.resolve()}, this picture of {other.resolve()}" in drop
    records = read_jsonl(tmp_path / "other.jsonl", Record.parse)
    assert all(first.name not in record.rejected_images[0] for record in records)


def test_the_index_belongs_to_the_run(
    root: Path, index: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads(Path(f"{pairs}.run", "manifest.json").read_text())["identity"]["manifest"]
    assert list(manifest["inputs"]) == ["index"]
    arguments = ["--model", str(MODEL), "--data", str(root / "sft.jsonl"), "--output", str(tmp_path / "o.jsonl")]
    assert main("realign", arguments) == 2
    assert "mmalign build realign: field 'index': is missing: give --index" in capsys.readouterr().err
    assert main("realign", [*arguments, "--index", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
