"""Native clips under DeepSpeed: a rank with clips and one with pictures or text do not wait for each other."""

from __future__ import annotations

import json

import pytest
from transformers.utils import is_torchvision_available

from mmalign import backbones
from mmalign.training import metrics
from tests.conftest import REPOSITORY
from tests.families import build
from tests.tiny import run_command, run_deepspeed, write_pairs
from tests.training.test_same_losses import assert_same, flags

if not is_torchvision_available():
    pytest.skip("video processors need torchvision: make test runs them with it", allow_module_level=True)


@pytest.fixture(scope="module")
def native_pairs(tmp_path_factory):
    """A clip, a picture, both, text, two clips, over and over: of one record each, no two ranks have the same kinds."""
    folder = tmp_path_factory.mktemp("native")
    return write_pairs(folder, count=20, seed=2, pictures=(0, 1, 1, 0, 0), clips=(1, 0, 1, 0, 2))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_onevision"])
def one_process(request, native_pairs, tmp_path_factory):
    """A model, and the metrics of its training in one process."""
    folder = tmp_path_factory.mktemp(request.param)
    build(request.param, native=True).save(folder / "model")
    run_command("train", "dpo", *flags(folder / "model", None, native_pairs, folder / "run", 2))
    rows = metrics.read(folder / "run")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert abs(losses[9] - losses[0]) > 0.01
    return folder / "model", rows


@pytest.mark.parametrize("zero", ["zero2", "zero3"])
def test_two_processes(one_process, native_pairs, tmp_path, zero):
    model, rows = one_process
    arguments = flags(model, None, native_pairs, tmp_path, 1)
    run_deepspeed(2, REPOSITORY / "train" / "dpo.py", "--deepspeed", zero, *arguments)
    assert_same(metrics.read(tmp_path), rows)


def test_what_was_trained_on_native_clips_is_shown_native_clips(one_process):
    run = one_process[0].parent / "run"
    assert json.loads((run / "training.json").read_text())["model"]["video"] == "native"
    loaded = backbones.load(run, device="cpu")
    assert loaded.native_video and loaded.trained_on.video == "native"
