"""A model remembers how it saw clips in its training, and is shown them in that way again."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
from transformers.utils import is_torchvision_available

from mmalign import backbones
from mmalign.backbones import TrainedOn, _trained_on
from mmalign.benchmarks import _options
from mmalign.media import FRAMES, FrameChoice
from mmalign.records import InputError
from mmalign.training import main
from tests.families import build
from tests.tiny import run_command, write_model, write_pairs


def flags(folder, name):
    """Of a training in ``folder``, on clips or on pictures."""
    given = [
        "--model",
        folder / "model",
        "--data",
        folder / name / "pairs.jsonl",
        "--output_dir",
        folder / f"on_{name}",
    ]
    given += ["--frames", 3, "--video_pixels", 9000, "--max_steps", 1, "--lora", "true"]
    return list(map(str, [*given, "--save_strategy", "no", "--disable_tqdm", "true"]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model folder, and what became of it on clips and on pictures."""
    folder = tmp_path_factory.mktemp("trained")
    write_model(folder / "model", seed=0)
    for name, media in {"clips": {"clips": (1,)}, "pictures": {"pictures": (1,)}}.items():
        write_pairs(folder / name, 4, seed=1, **{"pictures": (0,), "clips": (0,), **media})
        assert main("dpo", flags(folder, name)) == 0
    return folder


def test_it_is_saved_with_the_model_and_kept_when_the_adapter_is_merged(trained):
    assert backbones.load(trained / "model", device="meta").trained_on is None
    assert not (trained / "on_pictures" / "clips.json").exists()
    said = {"frames": 3, "fps": None, "video_pixels": 9000, "video": "frames"}
    assert json.loads((trained / "on_clips" / "clips.json").read_text()) == said
    run_command("merge", trained / "on_clips", "--output", trained / "merged")
    for name in ("on_clips", "merged"):
        assert backbones.load(trained / name, device="cpu").trained_on == TrainedOn(
            FrameChoice(3, None, 9000), "frames"
        )


def test_predict_takes_it_flag_by_flag_unless_told_otherwise():
    parser = argparse.ArgumentParser()
    _options.add_frame_arguments(parser)
    seen = TrainedOn(FrameChoice(16, 1.0, 9000))

    def chosen(*given, trained_on=seen):
        return _options.frame_choice(parser.parse_args(given), trained_on)

    assert chosen() == FrameChoice(16, 1.0, 9000)
    assert chosen("--frames", "5") == FrameChoice(5, 1.0, 9000)
    assert chosen("--fps", "2") == FrameChoice(16, 2.0, 9000)
    assert chosen("--fps", "none", "--video_pixels", "800") == FrameChoice(16, None, 800)
    assert chosen("--video_pixels", "none") == FrameChoice(16, 1.0, None)
    assert chosen(trained_on=None) == FRAMES
    assert chosen("--fps", "2", trained_on=None) == FrameChoice(8, 2.0)


@pytest.fixture
def folder(tmp_path):
    """A model of a family that knows clips."""
    build("internvl").save(tmp_path / "model")
    return tmp_path / "model"


def remember(folder, **said):
    (folder / _trained_on.NAME).write_text(json.dumps({"frames": 4, "fps": None, "video_pixels": None, **said}))


def test_clips_are_shown_as_in_training(folder):
    remember(folder, video="frames")
    assert not backbones.load(folder, device="cpu").native_video
    remember(folder)  # as older versions wrote it
    assert backbones.load(folder, device="cpu").native_video == is_torchvision_available()
    remember(folder, video="native")
    assert not backbones.load(folder, device="cpu", video="frames").native_video
    if is_torchvision_available():
        assert backbones.load(folder, device="cpu").native_video
        return
    with pytest.raises(InputError, match="trained on native clips.* pip install torchvision; --video frames shows"):
        backbones.load(folder, device="cpu")


def test_who_shows_no_clips_needs_nothing_for_them(trained, tmp_path):
    """This family has no native clips at all; the word is kept for those who show some."""
    adapter = shutil.copytree(trained / "on_clips", tmp_path / "adapter")
    remember(adapter, video="native")
    with pytest.raises(InputError, match="trained on native clips, models of type llava know none"):
        backbones.load(adapter, device="cpu")
    backbones.merge(adapter, tmp_path / "merged")
    assert _trained_on.read(tmp_path / "merged") == TrainedOn(FrameChoice(4), "native")
    command = ["index", "--model", adapter, "--images", trained / "pictures", "--output", tmp_path / "index"]
    assert "4 pictures" in run_command(*command).stdout


def test_a_run_goes_on_showing_clips_as_it_began(trained, capsys):
    """Whatever ``auto`` would come to by now; this family has no native clips, so that an error tells."""
    given = flags(trained, "clips")
    for name, shown in {"pictures": "auto", "clips": "frames"}.items():
        file = trained / f"on_{name}" / "training.json"
        run = json.loads(file.read_text())
        assert run["model"]["video"] == shown
    run["finished"] = False
    file.write_text(json.dumps({**run, "model": {**run["model"], "video": "native"}}))
    assert main("dpo", given) == 2
    assert "no native clips" in capsys.readouterr().err
    del run["model"]["video"]  # as older versions wrote it
    file.write_text(json.dumps(run))
    assert main("dpo", given) == 0
    assert json.loads(file.read_text())["model"]["video"] == "frames"
    assert main("dpo", given) == 0
    assert "finished; nothing to do" in capsys.readouterr().out
    assert main("dpo", [*given, "--video", "native"]) == 2
    assert "model.video: 'frames' -> 'native'" in capsys.readouterr().err


SOUND = {"frames": 8, "fps": 0.5, "video_pixels": None, "video": "native"}


@pytest.mark.parametrize(
    "said",
    ["", "[]", "{}"]
    + [
        json.dumps({**SOUND, **wrong})
        for wrong in (
            *({"frames": count} for count in (0, None, 2.5, True, "8")),
            {"fps": -1},
            {"fps": "2"},
            {"video_pixels": 0.5},
            {"video": "clips"},
        )
    ],
)
def test_a_damaged_file_is_named(tmp_path, said):
    file = tmp_path / _trained_on.NAME
    file.write_text(json.dumps(SOUND))
    assert _trained_on.read(tmp_path) == TrainedOn(FrameChoice(8, 0.5), "native")
    file.write_text(said)
    with pytest.raises(InputError, match=r"clips\.json: is damaged"):
        _trained_on.read(tmp_path)


def test_a_model_of_the_hub_is_asked_too(tmp_path, monkeypatch):
    """As the hub's cache has it; one that is not there, or has no such file, says nothing."""
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "a1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert _trained_on.read("someone/model") is None
    remember(snapshot, video="native")
    assert _trained_on.read("someone/model") == TrainedOn(FrameChoice(4), "native")
    assert _trained_on.read("someone/model", tmp_path, "no/such", "/no/such/folder") == TrainedOn(
        FrameChoice(4), "native"
    )
