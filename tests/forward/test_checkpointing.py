"""Recomputed activations give the same gradients, of language model and tower apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.forward import Batch, Encoder, Engine
from mmalign.records import Record, assistant_message, user_message
from tests.families import build

VIEWS = ("chosen", "rejected")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picture")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    say = [[assistant_message(text)] for text in ("A red circle.", "A blue square and a circle.")]
    prompt = [user_message("What is here?", images=1)]
    return folder, Record(id="a", prompt=prompt, images=("a.png",), chosen=say[0], rejected=say[1])


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
def test_same_gradients_with_less_kept(record, family):
    found, calls = [], []
    for recompute in (False, True):
        backbone = build(family)
        engine = Engine(backbone, reference=False)
        if recompute:
            engine.gradient_checkpointing_enable()
            engine.checkpoint_tower()
        engine.train()
        layer = backbone.decoder.layers[0].self_attn
        run, count = layer.forward, []
        layer.forward = lambda *a, run=run, count=count, **k: count.append(1) or run(*a, **k)
        encoded = Encoder(backbone, VIEWS)(record[1], record[0])
        batches = [
            Batch.of([encoded] * count, VIEWS, backbone.pad_token_id, share=True, pack=engine.pack) for count in (1, 2)
        ]
        scores = [engine(batch)[0] for batch in batches]  # each is computed again by its own layout
        loss = sum((policy["chosen"].sum() - policy["rejected"].sum() ** 2).sum() for policy in scores)
        weights = list(backbone.model.parameters())
        found.append([loss, *torch.autograd.grad(loss, weights, allow_unused=True)])
        calls.append(len(count))
    assert calls == [2, 4]
    for kept, recomputed in zip(*found, strict=True):
        if kept is not None:
            torch.testing.assert_close(recomputed, kept, rtol=1e-5, atol=1e-6 * kept.abs().max().item())
