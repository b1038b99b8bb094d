"""An adapter on a base in 4 bits (QLoRA)."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from mmalign import backbones
from mmalign.records import InputError
from mmalign.training import metrics
from tests.tiny import run_command

FLAGS = (
    "--lora", "true", "--learning_rate", "1e-2", "--per_device_train_batch_size", "2", "--max_steps", "6",
    "--logging_steps", "1", "--save_strategy", "no", "--disable_tqdm", "true",
)  # fmt: skip


def quantised(model) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


def test_only_the_language_model_is_in_4_bits(tiny_model):
    pytest.importorskip("bitsandbytes")
    backbone = backbones.load(tiny_model, load_in_4bit=True, device="cpu")
    names = quantised(backbone.model)
    assert names
    assert {backbone.part_of(name) for name in names} == {"language"}
    whole = backbones.load(tiny_model, device="meta")
    whole.model.requires_grad_(False)
    linear = {id(weight) for weight in whole.quantizable()}
    expected = {name for name, module in whole.model.named_modules() if id(getattr(module, "weight", None)) in linear}
    assert names == expected
    assert isinstance(backbone.head, torch.nn.Linear)


def test_it_trains_and_the_adapter_fits_the_whole_base(tiny_model, pairs, tmp_path):
    pytest.importorskip("bitsandbytes")
    base = ["train", "dpo", "--model", tiny_model, "--data", pairs, *FLAGS]
    run_command(*base, "--output_dir", tmp_path / "four", "--load_in_4bit", "true", "--precompute_reference", "true")
    run_command(*base, "--output_dir", tmp_path / "whole")
    four, whole = ([row for row in metrics.read(tmp_path / name) if "loss" in row] for name in ("four", "whole"))
    assert four[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.02), "both start at their reference"
    assert four[0]["logps/chosen"] != whole[0]["logps/chosen"]
    assert four[0]["logps/chosen"] == pytest.approx(whole[0]["logps/chosen"], rel=0.2)
    assert max(row["rewards/margins"] for row in four) > 0.05
    assert json.loads((tmp_path / "four" / "training.json").read_text())["model"]["load_in_4bit"]
    adapted = backbones.load(tmp_path / "four", device="cpu")
    assert not quantised(adapted.model)
    assert any("lora_B" in name and weight.any() for name, weight in adapted.model.named_parameters())


def test_what_cannot_be_is_refused(tiny_model, pairs, tmp_path, monkeypatch):
    base = ["train", "dpo", "--model", tiny_model, "--data", pairs, "--output_dir", tmp_path, "--load_in_4bit", "true"]
    assert "weights in 4 bits do not train; say --lora true" in run_command(*base, check=False).stderr
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        backbones.load(tiny_model, load_in_4bit=True, device="cpu")
