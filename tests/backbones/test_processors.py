"""Models whose processor has a video part are loaded, shown pictures and saved where there is no torchvision."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from mmalign import backbones
from mmalign.media import Clip
from mmalign.records import InputError, user_message
from tests.families import build

if is_torchvision_available():
    pytest.skip("what is tested is what happens without torchvision", allow_module_level=True)

FAMILIES = ("internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
CLIP = Clip((PICTURE, PICTURE.rotate(90)), (0.25, 0.75), (0, 1), 1.0)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    return build(request.param)


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / type(made).__name__
    made.save(folder)
    return folder


def test_pictures_and_frames_are_seen_as_ever(made, folder):
    loaded = backbones.load(folder, device="cpu")
    assert not loaded.native_video
    for message, media in (
        (user_message("What?", images=1), {"images": [PICTURE]}),
        (user_message("What?", videos=1), {"videos": [CLIP]}),
    ):
        expected, found = (backbone.encode_prompt([message], **media) for backbone in (made, loaded))
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.positions, expected.positions)
        for name, value in expected.media.items():
            assert torch.equal(found.media[name], value)
    assert loaded.processor_fingerprint() == made.processor_fingerprint()


def test_native_clips_say_what_they_need(folder):
    with pytest.raises(InputError, match="pip install torchvision"):
        backbones.load(folder, device="cpu", video="native")


def test_what_is_saved_reads_clips_elsewhere(made, folder, tmp_path):
    """The video part's settings are in the folder still, though nothing here could run it."""
    backbones.load(folder, device="cpu").save(tmp_path)
    first, second = (json.loads((path / "processor_config.json").read_text()) for path in (folder, tmp_path))
    assert second == first
    assert first["video_processor"]["video_processor_type"].endswith("VideoProcessor")


def test_a_family_that_knows_no_clips_says_so(tiny_model):
    assert not backbones.load(tiny_model, device="cpu").native_video
    with pytest.raises(InputError, match="models of type llava know none"):
        backbones.load(tiny_model, device="cpu", video="native")
    with pytest.raises(InputError, match="expected one of auto, native, frames, got 'clip'"):
        backbones.load(tiny_model, device="cpu", video="clip")


def test_settings_in_a_file_of_their_own_are_kept(folder, tmp_path):
    """Folders made before transformers 5 have the settings of each part in its own file."""
    backbones.load(folder, device="cpu").save(tmp_path)
    whole = json.loads((tmp_path / "processor_config.json").read_text())
    for part, file in (
        ("image_processor", "preprocessor_config.json"),
        ("video_processor", "video_preprocessor_config.json"),
    ):
        (tmp_path / file).write_text(json.dumps(whole.pop(part)))
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    loaded = backbones.load(tmp_path, device="cpu")
    assert loaded.processor.video_processor.to_dict() == backbones.load(folder).processor.video_processor.to_dict()
    context = loaded.encode_prompt([user_message("What?", images=1)], [PICTURE])
    assert loaded.is_media(context.input_ids).any()
