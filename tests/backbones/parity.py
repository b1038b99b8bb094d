"""What the tests of families hold against each other: transformers alone, plain rows, and every other layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.backbones import Backbone, Job
from mmalign.forward import Batch, Encoder, Engine
from mmalign.media import FRAMES, Clip, FrameChoice
from mmalign.records import Record

VIEWS = ("chosen", "rejected", "chosen@rejected_media")


def batch_of(
    backbone: Backbone,
    folder: Path,
    records: Iterable[Record],
    *,
    share: bool,
    pack: bool = False,
    frames: FrameChoice = FRAMES,
) -> Batch:
    """Records, encoded with all `VIEWS` and laid out."""
    encoder = Encoder(backbone, VIEWS, frames=frames)
    encoded = [encoder(record, folder) for record in records]
    return Batch.of(encoded, VIEWS, backbone.pad_token_id, share=share, pack=pack)


def logps(backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
    """Of each view's response tokens."""
    policy, _ = Engine(backbone, reference=False)(batch)
    return {view: stats.logps for view, stats in policy.items()}


def oracle(
    backbone: Backbone,
    record: Record,
    view: str,
    inputs_of: Callable[[str, Sequence[str], Sequence[str]], dict],
    length: int | None = None,
) -> Tensor:
    """Log-probability of each response token, from transformers alone.

    Args:
        inputs_of: what transformers makes of a templated text with the names of its pictures and clips.
        length: tokens of the response; by default all there are behind the prompt.
    """
    name, _, context = view.partition("@")
    media = record.negative_media if context else (record.images, record.videos)
    template = backbone.processor.apply_chat_template
    whole = template([*record.prompt, *getattr(record, name)], tokenize=False, add_generation_prompt=False)
    prompt = template(list(record.prompt), tokenize=False, add_generation_prompt=True)
    inputs = inputs_of(whole, *media)
    start = inputs_of(prompt, *media)["input_ids"].shape[1]
    scores = backbone.model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    stop = len(ids) if length is None else start + length
    return torch.stack([scores[t - 1, ids[t]] for t in range(start, stop)])


def assert_row_equals(row: Tensor, expected: Tensor) -> None:
    """The response's tokens are as expected, and nothing stands behind them."""
    assert expected.sum() < -3
    torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)
    assert not row[len(expected) :].any()


def assert_batches_equal(backbone: Backbone, plain: Batch, other: Batch) -> None:
    """Log-probabilities are the same in both, and so is the gradient of every weight."""
    weights = [w for w in backbone.model.parameters() if w.requires_grad]
    found = []
    for batch in (plain, other):
        values = logps(backbone, batch)
        loss = sum((i + 1) * (value * value).sum() for i, value in enumerate(values.values()))
        found.append((values, torch.autograd.grad(loss, weights, allow_unused=True)))
    (expected, wanted), (values, gradients) = found
    for view in VIEWS:
        torch.testing.assert_close(values[view], expected[view], rtol=1e-5, atol=1e-5)
    whole = torch.stack([g.norm() for g in wanted if g is not None]).norm()
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-7 * whole


def assert_orders_differ(backbone: Backbone, picture: Image.Image, clip: Clip) -> None:
    """A picture before a clip and behind it are two prompts, each the same alone and beside the other."""
    jobs = [
        Job([{"role": "user", "content": [*({"type": kind} for kind in kinds), {"type": "text", "text": "What?"}]}])
        for kinds in (("image", "video"), ("video", "image"))
    ]
    jobs = [replace(job, images=(picture,), videos=(clip,)) for job in jobs]
    together = np.log(backbone.choose(jobs, ["A", "No"]))
    alone = [np.log(backbone.choose([job], ["A", "No"]))[0] for job in jobs]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert abs(together[0] - together[1]).max() > 1e-3
