"""Clips through a family's own video processor, on a tiny random model with its real processor.

What transformers computes for one conversation alone is the oracle of the plain layout, and that of the shared one; the
clips' times are told to transformers as a file has them: its rate, and the numbers of its frames.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.utils import is_torchvision_available

from mmalign.forward import Batch, Encoder, Engine
from mmalign.media import FrameChoice, open_clip, open_image
from mmalign.records import Record, assistant_message
from tests.families import build
from tests.tiny import noise, write_clip

if not is_torchvision_available():
    pytest.skip("video processors need torchvision: make test runs them with it", allow_module_level=True)

from transformers.video_utils import VideoMetadata  # noqa: E402

FAMILIES = ("internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")
VIEWS = ("chosen", "rejected", "chosen@rejected_media")
LAYOUTS = {"shared": (True, False), "shared and packed": (True, True), "packed": (False, True)}
BATCHES = {"one clip": [1], "several": [3], "mixed": [0, 1, 2, 3, 4], "clips or pictures": [1, 4]}
FRAMES = FrameChoice(3)
RATES = {"a": 2, "b": 7, "c": 1}
COUNT = 7


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request):
    return build(request.param, native=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for name, rate in RATES.items():
        write_clip(folder / f"{name}.avi", [noise(rng) for _ in range(COUNT)], fps=rate)
    for name in ("p", "q"):
        noise(rng).save(folder / f"{name}.png")
    return folder


def record(number: int) -> Record:
    """Text, a clip, a clip and a picture, a picture between two clips, a picture: uneven answers, other media."""
    kinds = [(), ("video",), ("video", "image"), ("video", "image", "video"), ("image",)][number]
    videos = [(), ("a.avi",), ("b.avi",), ("c.avi", "a.avi"), ()][number]
    chosen = ["A red circle.", "There is a blue square.", "Red.", "A green triangle and a red one.", "Blue."][number]
    blocks = [{"type": kind} for kind in kinds]
    return Record(
        id=f"r{number}",
        prompt=[{"role": "user", "content": [*blocks, {"type": "text", "text": "What is here?"[: 10 + number]}]}],
        images=("p.png",) * kinds.count("image"),
        videos=videos,
        rejected_images=("q.png",) if number == 4 else (),
        rejected_videos=tuple({"a.avi": "b.avi"}.get(name, "a.avi") for name in videos),
        chosen=[assistant_message(chosen)],
        rejected=[assistant_message("A red circle and a green triangle.")],
    )


def batch_of(backbone, folder, numbers, *, share, pack=False) -> Batch:
    encoder = Encoder(backbone, VIEWS, frames=FRAMES)
    encoded = [encoder(record(number), folder) for number in numbers]
    return Batch.of(encoded, VIEWS, backbone.pad_token_id, share=share, pack=pack)


def logps(backbone, batch) -> dict[str, torch.Tensor]:
    policy, _ = Engine(backbone, reference=False)(batch)
    return {view: stats.logps for view, stats in policy.items()}


def inputs_of(backbone, folder, text: str, images, videos) -> dict:
    """What transformers makes of a conversation, told of the clips what is true of their files."""
    clips = [open_clip(name, folder, FRAMES) for name in videos]
    told = [
        VideoMetadata(COUNT, fps=float(RATES[name[0]]), duration=COUNT / RATES[name[0]], frames_indices=[*clip.indices])
        for name, clip in zip(videos, clips, strict=True)
    ]
    frames = {"videos": [np.stack(clip.frames) for clip in clips], "video_metadata": told, "do_sample_frames": False}
    pictures = [open_image(folder / name) for name in images] or None
    found = backbone.processor(text=[text], images=pictures, return_tensors="pt", **(frames if clips else {}))
    if pictures and clips and "pixel_attention_mask" in found:
        # SmolVLM's processor forgets a prompt's pictures where there are clips, but knows their tokens.
        own = backbone.processor(text=[backbone.processor.image_token], images=pictures, return_tensors="pt")
        for name in ("pixel_values", "pixel_attention_mask"):
            first, *rest = found[name].flatten(0, 1).split(len(clips[0].frames))
            found[name] = torch.cat([first, own[name][0], *rest])[None]
    return found


def oracle(backbone, folder, number: int, view: str) -> torch.Tensor:
    """Log-probability of each response token, from transformers alone."""
    one, processor = record(number), backbone.processor
    name, _, context = view.partition("@")
    images, videos = one.negative_media if context else (one.images, one.videos)
    template = {"tokenize": False, "add_generation_prompt": False}
    whole = processor.apply_chat_template([*one.prompt, *getattr(one, name)], **template)
    prompt = processor.apply_chat_template(list(one.prompt), **{**template, "add_generation_prompt": True})
    inputs = inputs_of(backbone, folder, whole, images, videos)
    start = inputs_of(backbone, folder, prompt, images, videos)["input_ids"].shape[1]
    length = len(backbone.encode_response(one.prompt, getattr(one, name)).input_ids)
    scores = backbone.model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    return torch.stack([scores[t - 1, ids[t]] for t in range(start, start + length)])


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
def test_log_probabilities_equal_transformers_alone(backbone, folder, numbers):
    batch = batch_of(backbone, folder, numbers, share=False)
    for view, found in logps(backbone, batch).items():
        for row, number in zip(found, numbers, strict=True):
            if number == 0 and "@" in view:
                assert not row.any()
                continue
            expected = oracle(backbone, folder, number, view)
            assert expected.sum() < -3
            torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-5, atol=1e-5)
            assert not row[len(expected) :].any()


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("share, pack", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_equals_plain_rows(backbone, folder, numbers, share, pack):
    weights = [w for w in backbone.model.parameters() if w.requires_grad]
    found = []
    for layout in ({"share": False}, {"share": share, "pack": pack}):
        values = logps(backbone, batch_of(backbone, folder, numbers, **layout))
        loss = sum((i + 1) * (value * value).sum() for i, value in enumerate(values.values()))
        found.append((values, torch.autograd.grad(loss, weights, allow_unused=True)))
    (plain, expected), (other, gradients) = found
    for view in VIEWS:
        torch.testing.assert_close(other[view], plain[view], rtol=1e-5, atol=1e-5)
    whole = torch.stack([g.norm() for g in expected if g is not None]).norm()
    for mine, theirs in zip(gradients, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-7 * whole
