"""The contract that every family keeps, on a tiny random model with its real processor.

What transformers computes for one conversation alone, whole logits and no batch, is the oracle of the plain layout; the
plain layout is the oracle of the shared one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign import plugins
from mmalign.backbones import Job
from mmalign.forward import Batch
from mmalign.media import Clip, open_image
from mmalign.records import Record, assistant_message, user_message
from tests.backbones import parity
from tests.backbones.parity import logps
from tests.families import FAMILIES, build

LAYOUTS = ("shared", "shared and packed", "packed")
BATCHES = {"one picture": [1], "several": [2], "mixed": [0, 1, 2, 3], "text only": [0]}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def backbone(request):
    return build(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, (width, height) in {"a": (60, 60), "b": (120, 50), "c": (40, 110), "d": (64, 64)}.items():
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def record(number: int) -> Record:
    """Text, one picture, two, one: answers of uneven lengths, and other pictures to prefer these to."""
    images = [(), ("a.png",), ("b.png", "c.png"), ("d.png",)][number]
    other = [(), ("d.png",), ("c.png", "b.png"), ("a.png",)][number]
    chosen = ["A red circle.", "There is a blue square.", "Red.", "A green triangle and a red one."][number]
    rejected = ["No.", "A red circle and a green triangle.", "A blue square, a red circle.", "It is blue."][number]
    return Record(
        id=f"r{number}",
        prompt=[user_message("What is here?"[: 10 + number], images=len(images))],
        images=images,
        rejected_images=other,
        chosen=[assistant_message(chosen)],
        rejected=[assistant_message(rejected)],
    )


def batch_of(backbone, folder, numbers, *, share, pack=False) -> Batch:
    return parity.batch_of(backbone, folder, map(record, numbers), share=share, pack=pack)


def oracle(backbone, folder, number: int, view: str) -> torch.Tensor:
    def inputs_of(text, images, videos):
        pictures = [open_image(folder / name) for name in images]
        return backbone.processor(text=[text], images=pictures or None, return_tensors="pt")

    return parity.oracle(backbone, record(number), view, inputs_of)


def test_every_family_has_its_tiny_model():
    assert set(plugins.names("mmalign.backbones")) == set(FAMILIES)


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
def test_log_probabilities_equal_transformers_alone(backbone, folder, numbers):
    batch = batch_of(backbone, folder, numbers, share=False)
    for view, found in logps(backbone, batch).items():
        for row, number in zip(found, numbers, strict=True):
            if view == "chosen@rejected_media" and not record(number).rejected_images:
                assert not row.any()
                continue
            parity.assert_row_equals(row, oracle(backbone, folder, number, view))


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("share, pack", [(True, False), (True, True), (False, True)], ids=LAYOUTS)
def test_every_layout_equals_plain_rows(backbone, folder, numbers, share, pack):
    assert backbone.can_branch
    if pack and not backbone.can_pack:
        pytest.skip("it needs masks that packed rows do not have")
    layouts = {"share": False}, {"share": share, "pack": pack}
    plain, other = (batch_of(backbone, folder, numbers, **layout) for layout in layouts)
    assert (plain.branches, other.branches) == (False, share)
    assert not pack or other.input_ids.numel() == other.tokens, "no padding"
    parity.assert_batches_equal(backbone, plain, other)


def test_only_who_has_windows_or_looks_ahead_is_padded(backbone):
    assert backbone.can_pack == (type(backbone).__name__ != "Gemma3")


@pytest.mark.parametrize("pack", [False, True], ids=["padded", "packed"])
def test_it_shows_when_branches_see_each_other_or_do_not_start_again(backbone, folder, pack):
    """Controls: what the parity test would catch."""
    batch = batch_of(backbone, folder, [1, 2, 3], share=True, pack=pack and backbone.can_pack)
    right = logps(backbone, batch)["rejected"]
    seeing = replace(batch, branch=torch.where(batch.branch > 0, 1, batch.branch))
    assert (logps(backbone, seeing)["rejected"] - right).abs().max() > 0.01
    starts = torch.tensor([row.start for row in batch.rows for _ in range(row.start, row.stop)] or [0])
    step = torch.arange(batch.input_ids.shape[1]) - starts - batch.order  # how far each token is moved back
    going_on = replace(batch, positions=batch.positions + step * (batch.branch > 0))
    assert (logps(backbone, going_on)["rejected"] - right).abs().max() > 0.01


def test_the_pictures_matter(backbone, folder):
    values = logps(backbone, batch_of(backbone, folder, [1, 2, 3], share=True))
    assert (values["chosen"] - values["chosen@rejected_media"]).abs().max() > 0.01


def test_the_same_media_in_another_order_are_another_prompt(backbone, folder):
    """Also where both are read in one call: what the tower made of one order is not the other's."""
    picture, *frames = (open_image(folder / f"{name}.png") for name in "aba")
    clip = Clip(tuple(frame.resize((64, 64)) for frame in frames), (0.0, 1.0), (0, 1), 2.0)
    parity.assert_orders_differ(backbone, picture, clip)


def test_what_it_writes_is_what_transformers_generates(backbone, folder):
    """Greedy, in one batch of uneven prompts."""
    jobs = [Job(r.prompt, tuple(open_image(folder / f) for f in r.images)) for r in map(record, range(4))]
    written = backbone.generate(jobs, max_new_tokens=8)
    for job, text in zip(jobs, written, strict=True):
        prompt = backbone.template(job.messages, generation_prompt=True)
        inputs = backbone.processor(text=[prompt], images=list(job.images) or None, return_tensors="pt")
        ids = backbone.hf_model.generate(
            **inputs, max_new_tokens=8, do_sample=False, eos_token_id=sorted(backbone.end_token_ids)
        )
        start = inputs["input_ids"].shape[1]
        assert text == backbone.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
