"""Making an index to the end: the command, a kill in the middle, several ranks, broken and stale input."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from collection import Given, number_of, picture, write_pictures
from PIL import Image

from mmalign import cli
from mmalign.records import InputError
from mmalign.retrieval import Guard, Index
from mmalign.retrieval.index import OFF
from mmalign.retrieval.make import make
from mmalign.retrieval.write import Settings
from tests.conftest import REPOSITORY
from tests.tiny import environment, noise

COUNT = 24


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures in two folders, one of which is cut short, one not a picture, one a link that leads out."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    for number in range(COUNT):
        noise(rng).save(root / ("more" if number % 2 else "") / f"{number:02d}.png")
    (root / "10.png").write_bytes((root / "10.png").read_bytes()[:3000])
    (root / "more" / "11.png").write_text("<html>404</html>")
    noise(rng).save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    return root


def arguments(model: Path, photos: Path, output: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--images", str(photos), "--output", str(output), "--unit_size", "3", *more]


def test_command(tiny_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "index"
    assert cli.main(["index", *arguments(tiny_model, photos, output, "--local_rank=0")]) == 0
    said = capsys.readouterr().out
    head, *table = said.splitlines()
    assert head.startswith(f"{output}: {COUNT - 2} pictures, ") and "as Flat" in head
    assert "1 dropped (truncated)" in head and "1 dropped (unreadable)" in head and "1 dropped (bad_path)" in head
    assert len(table) == 3 and all(-1 <= float(line.split()[-1]) <= 1 for line in table)
    index = Index.open(output)
    assert len(index) == COUNT - 2 and "more/01.png" in index.names and "link.png" not in index.names
    assert index.neighbours(["10.png"], 3, Guard()) == [None]
    assert not list(output.glob("*.tmp*"))
    drops = [json.loads(line) for line in (output / "embeddings.jsonl.run" / "drops.jsonl").read_text().splitlines()]
    assert {drop["source"] for drop in drops} == {"10.png", "more/11.png", "link.png"}


def test_vectors_are_the_tower_s(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    from mmalign import backbones
    from mmalign.media import open_image

    assert cli.main(["index", *arguments(tiny_model, photos, tmp_path / "index", "--no_center")]) == 0
    index = Index.open(tmp_path / "index")
    pictures = [open_image(photos / name) for name in index.names]
    vectors = backbones.load(tiny_model, device="cpu").embed_images(pictures)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors(np.arange(len(index))), vectors, atol=1e-5)


def test_another_index_of_what_is_embedded(
    tiny_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again does nothing; other settings embed nothing anew; another encoder is refused."""
    output = tmp_path / "index"
    command = ["index", *arguments(tiny_model, photos, output)]
    assert cli.main(command) == 0
    exact = Index.open(output)
    before = {file.name: file.stat().st_mtime_ns for file in output.glob("*")}
    assert cli.main(command) == 0
    assert before == {file.name: file.stat().st_mtime_ns for file in output.glob("*")}
    assert cli.main([*command, "--index", "IVF4,SQ8", "--search", "nprobe=4"]) == 0
    assert "is already complete" in capsys.readouterr().err
    cells = Index.open(output)
    assert cells.manifest["settings"] == {"index": "IVF4,SQ8", "center": True, "search": "nprobe=4"}
    assert cells.fingerprint() != exact.fingerprint()
    assert cells.neighbours(cells.names, 3, OFF) == exact.neighbours(exact.names, 3, OFF), "an open one stays open"
    assert before["embeddings.jsonl"] == (output / "embeddings.jsonl").stat().st_mtime_ns
    assert cli.main(command) == 0 and not (output / "vectors.npy").exists()
    assert Index.open(output).fingerprint() == exact.fingerprint()
    capsys.readouterr()
    assert cli.main([*command, "--dtype", "bfloat16"]) == 2
    assert "dtype: torch.float32 -> torch.bfloat16" in capsys.readouterr().err


def test_stale_index_is_refused(
    tiny_model: Path, moved_model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "index"
    assert cli.main(["index", *arguments(tiny_model, photos, output)]) == 0
    assert cli.main(["index", *arguments(moved_model, photos, output)]) == 2
    assert "was begun differently: encoder: tower of" in capsys.readouterr().err
    noise(np.random.default_rng(9)).save(photos / "new.png")
    assert cli.main(["index", *arguments(tiny_model, photos, output)]) == 2
    assert "sources: 25 with fingerprint" in capsys.readouterr().err


def test_kill_and_go_on(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(["index", *arguments(tiny_model, photos, whole)]) == 0
    script = [sys.executable, REPOSITORY / "data_builders" / "index.py", *arguments(tiny_model, photos, cut)]
    config = ["--config", str(REPOSITORY / "data_builders" / "index.yaml")]
    process = subprocess.Popen(
        [*script, *config], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    shard = cut / "embeddings.jsonl.run" / "shard-00000.jsonl"
    deadline = time.monotonic() + 300
    while finished(shard) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "manifest.json").exists() and 2 <= finished(shard) < 9, "killed in the middle"
    with pytest.raises(InputError, match="no finished index"):
        Index.open(cut)
    assert cli.main(["index", *arguments(tiny_model, photos, cut)]) == 0
    same(cut, whole)


def finished(shard: Path) -> int:
    return sum(line.startswith(b"#") for line in shard.read_bytes().splitlines()) if shard.exists() else 0


def same(one: Path, other: Path) -> None:
    for name in ("names.npy", "hashes.npy", "index.faiss", "embeddings.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert Index.open(one).fingerprint() == Index.open(other).fingerprint()


def test_killed_while_the_index_is_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half done passes for an index, and the next call makes a whole one."""
    names = write_pictures(tmp_path / "p", 30)
    encoder = Given(np.random.default_rng(0).standard_normal((30, 8)))
    whole = make(encoder, names, tmp_path / "p", tmp_path / "whole", Settings("SQ8"), progress=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmalign.retrieval.write._save", killed)
        for settings in (Settings("SQ8"), Settings("Flat")):
            with pytest.raises(KeyboardInterrupt):
                make(encoder, names, tmp_path / "p", tmp_path / "cut", settings, progress=False)
            with pytest.raises(InputError, match="no finished index"):
                Index.open(tmp_path / "cut")
    made = make(encoder, names, tmp_path / "p", tmp_path / "cut", Settings("SQ8"), progress=False)
    assert made.fingerprint() == whole.fingerprint() and not list((tmp_path / "cut").glob("*.tmp*"))


def test_pictures_that_changed_and_were_embedded_anew(tmp_path: Path) -> None:
    """An index of what was there before does not stay, whatever its rows' names and counts."""
    names = write_pictures(tmp_path / "p", 10)
    encoder, output = Given(np.random.default_rng(0).standard_normal((40, 8))), tmp_path / "index"
    before = make(encoder, names, tmp_path / "p", output, Settings(), progress=False)
    for number, name in enumerate(names):
        picture(number + 20).save(tmp_path / "p" / name)
    (output / "embeddings.jsonl").unlink()
    shutil.rmtree(output / "embeddings.jsonl.run")
    after = make(encoder, names, tmp_path / "p", output, Settings(), progress=False)
    fresh = make(encoder, names, tmp_path / "p", tmp_path / "fresh", Settings(), progress=False)
    assert after.fingerprint() == fresh.fingerprint() != before.fingerprint()
    assert after.neighbours(names, 2, OFF) == fresh.neighbours(names, 2, OFF) != before.neighbours(names, 2, OFF)


def test_two_ranks(tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(["index", *arguments(tiny_model, photos, one)]) == 0
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        assert not (two / "manifest.json").exists()
        assert cli.main(["index", *arguments(tiny_model, photos, two)]) == 0
        assert ("22 pictures" in capsys.readouterr().out) == (rank == "0"), "who finishes last makes the index"
    same(one, two)


def test_two_processes_at_once(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Both may be done at the same moment: one index comes of it."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(["index", *arguments(tiny_model, photos, one)]) == 0
    command = [sys.executable, "-m", "mmalign.cli", "index", *arguments(tiny_model, photos, two)]
    ranks = [
        subprocess.Popen(command, env={**environment(), "WORLD_SIZE": "2", "RANK": rank}, stderr=subprocess.DEVNULL)
        for rank in "01"
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    same(one, two)


@pytest.mark.parametrize("wrong, problem", [
    (["--index", "IVF4,PQ5"], "FAISS makes no 'IVF4,PQ5' of vectors of 128 numbers"),
    (["--index", "Flatt"], "FAISS makes no 'Flatt'"),
    (["--index", "IVF64,Flat"], "22 pictures are too few to train 'IVF64,Flat' on"),
    (["--search", "nprobe=4"], "no such option: 'nprobe=4'"),
    (["--batch_size", "0"], "field 'batch_size': must be 1 or more"),
    (["--encoder", "x"], "give --model, whose vision tower embeds, or --encoder"),
    (["--data", "x"], "give --images, a folder, or --data"),
    (["--indx", "Flat"], "no such flag: --indx; did you mean index?"),
    (["--media_root", "nowhere"], "is not inside the media root nowhere"),
])  # fmt: skip
def test_wrong_input(wrong: list[str], problem: str, tiny_model: Path, photos: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(["index", *arguments(tiny_model, photos, tmp_path / "index", *wrong)]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_records_name_pictures(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """Several times the same ones; the index then has them once, under the records' names."""
    data = photos / "records.jsonl"
    rows = [
        {"image": name, "question": "What?"} for name in ("00.png", "more/01.png", "./00.png", "00.png", "gone.png")
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", str(tiny_model), "--data", str(data), "--output", str(tmp_path / "index")]
    assert cli.main(["index", *given]) == 0
    index = Index.open(tmp_path / "index")
    assert index.names == ["00.png", "more/01.png"] and index.manifest["drops"] == {"missing": 1}


class Particular(Given):
    """Refuses wide pictures, and gives NaN for number 3."""

    def __call__(self, images):
        if any(image.width > 10 * image.height for image in images):
            raise ValueError("too wide for me")
        vectors = super().__call__(images)
        vectors[[number_of(image) == 3 for image in images]] = np.nan
        return vectors


def test_pictures_that_an_encoder_refuses(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "p", 8)
    Image.new("RGB", (100, 2)).save(tmp_path / "p" / "wide.png")
    encoder = Particular(np.random.default_rng(0).standard_normal((8, 5)))
    index = make(encoder, [*names, "wide.png"], tmp_path / "p", tmp_path / "i", Settings(), progress=False)
    assert index.names == [name for name in names if name != "00003.png"]
    assert index.manifest["drops"] == {"not_embeddable": 1, "not_finite": 1}
    assert encoder.identity() == replace(encoder).identity()


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(InputError, match=r"none of 2 pictures can be used \(missing 1, unreadable 1\)"):
        make(Given(np.ones((1, 2))), ["a.png", "b.png"], tmp_path, tmp_path / "i", Settings(), progress=False)


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["index", "--help"])
    assert not ended.value.code and "Example: mmalign index" in capsys.readouterr().out


def test_photographs(tiny_model: Path, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "photos"
    command = ["index", "--model", str(tiny_model), "--images", str(folder), "--output", str(tmp_path / "index")]
    assert cli.main(command) == 0
    index = Index.open(tmp_path / "index")
    assert len(index) > 3
    for near in index.neighbours(index.names, 3, Guard()):
        assert all(each.similarity <= Guard().similarity_max for each in near)
