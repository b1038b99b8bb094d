"""A model remembers which frames of clips it was trained on."""

from __future__ import annotations

import argparse
import json

import pytest

from mmalign import backbones
from mmalign.benchmarks import _options
from mmalign.media import FRAMES, FrameChoice
from mmalign.records import InputError
from mmalign.training import main
from tests.tiny import run_command, write_model, write_pairs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model folder, and what became of it on clips and on pictures."""
    folder = tmp_path_factory.mktemp("trained")
    model = write_model(folder / "model", seed=0)
    for name, media in {"clips": {"clips": (1,)}, "pictures": {"pictures": (1,)}}.items():
        pairs = write_pairs(folder / name, 4, seed=1, **{"pictures": (0,), "clips": (0,), **media})
        flags = [
            "--model",
            model,
            "--data",
            pairs,
            "--output_dir",
            folder / f"on_{name}",
            "--frames",
            3,
            "--lora",
            "true",
        ]
        flags += ["--video_pixels", 9000, "--max_steps", 1, "--save_strategy", "no", "--disable_tqdm", "true"]
        assert main("dpo", list(map(str, flags))) == 0
    return folder


def test_it_is_saved_with_the_model_and_kept_when_the_adapter_is_merged(trained):
    assert backbones.load(trained / "model", device="meta").frames is None
    assert not (trained / "on_pictures" / "clips.json").exists()
    assert json.loads((trained / "on_clips" / "clips.json").read_text()) == {
        "frames": 3,
        "fps": None,
        "video_pixels": 9000,
    }
    run_command("merge", trained / "on_clips", "--output", trained / "merged")
    for name in ("on_clips", "merged"):
        assert backbones.load(trained / name, device="cpu").frames == FrameChoice(3, None, 9000)


def test_predict_takes_it_unless_told_otherwise():
    parser = argparse.ArgumentParser()
    _options.add_frame_arguments(parser)
    seen = FrameChoice(3, None, 9000)
    assert _options.frame_choice(parser.parse_args([]), seen) == seen
    assert _options.frame_choice(parser.parse_args([]), None) == FRAMES
    assert _options.frame_choice(parser.parse_args(["--frames", "5"]), seen) == FrameChoice(5)
    assert _options.frame_choice(parser.parse_args(["--fps", "2"]), seen) == FrameChoice(8, 2.0)


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"frames": 0, "fps": null, "video_pixels": null}'])
def test_a_damaged_file_is_named(trained, tmp_path, said):
    from mmalign.backbones import _trained_on

    (tmp_path / _trained_on.NAME).write_text(said)
    with pytest.raises(InputError, match="damaged"):
        _trained_on.read(tmp_path)
