"""Adapters folded in: what the weights' dtype keeps of the update."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mmalign import backbones, cli
from mmalign.records import InputError


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """The tiny model in 16 bits, and an adapter on it whose update is a fraction of their steps."""
    folder = tmp_path_factory.mktemp("merged")
    backbone = backbones.load(tiny_model, dtype="bfloat16", device="cpu")
    backbone.save(folder / "model")
    torch.manual_seed(0)
    backbone = backbones.load(folder / "model", dtype="float32", device="cpu")
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    backbone.model = get_peft_model(backbone.model, config)
    for name, weight in backbone.model.named_parameters():
        if "lora_B" in name:
            weight.data *= 1e-3
    backbone.save(folder / "adapter")
    return folder


def logits(folder, adapter=None) -> torch.Tensor:
    backbone = backbones.load(folder, adapter=adapter, dtype="float32", device="cpu")
    with torch.no_grad():
        return backbone.model(input_ids=torch.arange(5, 25)[None]).logits


def test_float32_keeps_what_16_bits_round_away(folders):
    model, adapter = folders / "model", folders / "adapter"
    lost = backbones.merge(model, folders / "half", adapter=adapter)
    kept = backbones.merge(model, folders / "whole", adapter=adapter, dtype="float32")
    assert 0.2 < lost < 1.5 and kept < 1e-3
    assert backbones.load(folders / "half", device="cpu").dtype == torch.bfloat16
    assert backbones.load(folders / "whole", device="cpu").dtype == torch.float32
    wanted, base = logits(model, adapter), logits(model)
    moved = (wanted - base).norm()
    assert moved > 1e-4
    assert (logits(folders / "whole") - wanted).norm() < 0.01 * moved
    assert (logits(folders / "half") - wanted).norm() > 0.1 * moved


def test_the_command_says_so(folders, tmp_path, capsys):
    arguments = ["merge", str(folders / "adapter"), "--model", str(folders / "model")]
    assert cli.main([*arguments, "--output", str(tmp_path / "half")]) == 0
    assert "of the adapter's update is rounded away; --dtype float32 keeps it" in capsys.readouterr().out
    assert cli.main([*arguments, "--output", str(tmp_path / "whole"), "--dtype", "float32"]) == 0
    assert "rounded away" not in capsys.readouterr().out


def test_a_whole_model_has_none(folders, tmp_path):
    with pytest.raises(InputError, match="no adapter to merge"):
        backbones.merge(folders / "model", tmp_path / "out")
