"""TRL's DPOTrainer as a second opinion: the same numbers, record by record and step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.records import Record, assistant_message, user_message, write_jsonl
from tests.families import build
from tests.performance.sides import Plan, run_mmalign, run_trl
from tests.tiny import sentence

pytest.importorskip("trl", reason="the rival is not installed: pip install 'mmalign[dev]'")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten pairs, each with a picture."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    records = []
    for i in range(10):
        width, height = rng.integers(40, 90, 2)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        chosen, rejected = (assistant_message(sentence(rng, words)) for words in (3 + i % 4, 6 - i % 3))
        prompt = [user_message(f"What is in picture {i}?", images=1)]
        records.append(Record(id=str(i), prompt=prompt, images=(f"{i}.png",), chosen=[chosen], rejected=[rejected]))
    write_jsonl(folder / "pairs.jsonl", records)
    return folder / "pairs.jsonl"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_same_numbers(data, tmp_path, family, batch_size):
    plan = Plan(data=data, output=tmp_path, batch_size=batch_size, learning_rate=3e-3)
    ours, theirs = run_mmalign(build(family), plan), run_trl(build(family), plan)
    assert abs(ours.losses[4] - math.log(2)) > 0.05
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-4)
    assert ours.losses[0] == pytest.approx(math.log(2), rel=1e-4)
    for name, expected in theirs.logps.items():
        found = torch.tensor(ours.logps[name]).reshape(len(expected), -1).mean(1)  # TRL logs the mean of a batch
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=name)
    assert ours.vision * 4 == theirs.vision
    assert ours.tokens < 0.75 * theirs.tokens
