"""Clips through a family's own video processor, on a tiny random model with its real processor.

What transformers computes for one conversation alone is the oracle of the plain layout, and that of the shared one; the
clips' times are told to transformers as a file has them: its rate, and the numbers of its frames.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from transformers.utils import is_torchvision_available

from mmalign import backbones
from mmalign.backbones import Job
from mmalign.backbones._mrope import MRope
from mmalign.backbones._reading import Read, prompts_of
from mmalign.forward import Batch, Engine, encoding
from mmalign.media import Clip, FrameChoice, open_clip, open_image
from mmalign.media.noise import Noise
from mmalign.records import InputError, Record, assistant_message, user_message
from tests.backbones import parity
from tests.backbones.parity import VIEWS, logps
from tests.families import build
from tests.tiny import noise, write_clip

if not is_torchvision_available():
    pytest.skip("video processors need torchvision: make test runs them with it", allow_module_level=True)

from transformers.video_utils import VideoMetadata  # noqa: E402

FAMILIES = ("internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "smolvlm")
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
    return parity.batch_of(backbone, folder, map(record, numbers), share=share, pack=pack, frames=FRAMES)


def inputs_of(backbone, folder, text: str, images, videos) -> dict:
    """What transformers makes of a conversation, told of the clips what is true of their files."""
    clips = [open_clip(name, folder, FRAMES) for name in videos]
    told = [
        VideoMetadata(COUNT, fps=float(RATES[name[0]]), duration=COUNT / RATES[name[0]], frames_indices=[*clip.indices])
        for name, clip in zip(videos, clips, strict=True)
    ]
    frames = {"videos": [[np.stack(clip.frames) for clip in clips]], "video_metadata": told, "do_sample_frames": False}
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
    one = record(number)
    length = len(backbone.encode_response(one.prompt, getattr(one, view.partition("@")[0])).input_ids)
    return parity.oracle(backbone, one, view, partial(inputs_of, backbone, folder), length)


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
def test_log_probabilities_equal_transformers_alone(backbone, folder, numbers):
    batch = batch_of(backbone, folder, numbers, share=False)
    for view, found in logps(backbone, batch).items():
        for row, number in zip(found, numbers, strict=True):
            if number == 0 and "@" in view:
                assert not row.any()
                continue
            parity.assert_row_equals(row, oracle(backbone, folder, number, view))


@pytest.mark.parametrize("numbers", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("share, pack", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_equals_plain_rows(backbone, folder, numbers, share, pack):
    layouts = {"share": False}, {"share": share, "pack": pack}
    parity.assert_batches_equal(backbone, *(batch_of(backbone, folder, numbers, **layout) for layout in layouts))


def job(folder, number: int, **options) -> Job:
    one = record(number)
    shown = (
        tuple(open_image(folder / name) for name in one.images),
        tuple(open_clip(v, folder, FRAMES) for v in one.videos),
    )
    return Job(one.prompt, shown[0], videos=shown[1], **options)


def test_what_it_writes_is_what_transformers_generates(backbone, folder):
    """Greedy, in one batch of uneven prompts."""
    numbers = [0, 1, 2, 4]
    written = backbone.generate([job(folder, number) for number in numbers], max_new_tokens=8)
    for number, text in zip(numbers, written, strict=True):
        one = record(number)
        inputs = inputs_of(
            backbone, folder, backbone.template(one.prompt, generation_prompt=True), one.images, one.videos
        )
        ids = backbone.hf_model.generate(
            **inputs, max_new_tokens=8, do_sample=False, eos_token_id=sorted(backbone.end_token_ids)
        )
        assert text == backbone.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_what_it_writes_after_a_long_clip_is_what_the_model_computes(backbone, folder):
    """transformers' ``generate`` goes on behind the last second of a clip (Qwen2.5-VL), its forward behind the text."""
    (written,) = backbone.generate([job(folder, 3)], max_new_tokens=6)
    one, ids = record(3), []
    prompt = backbone.template(one.prompt, generation_prompt=True)
    inputs = inputs_of(backbone, folder, prompt, one.images, one.videos)
    while len(ids) < 6:
        logits = backbone.model(**inputs).logits[0, -1]
        if (token := int(logits.argmax())) in backbone.end_token_ids:
            break
        ids.append(token)
        more = {"input_ids": token, "attention_mask": 1, "mm_token_type_ids": 0}
        inputs |= {k: torch.cat([inputs[k], torch.tensor([[v]])], dim=1) for k, v in more.items() if k in inputs}
    assert ids
    assert written == backbone.tokenizer.decode(ids, skip_special_tokens=True)


def test_hidden_tokens_of_clips_and_pictures(backbone, folder):
    """Left out or masked, it is the same; and it is another answer than of all that can be seen."""
    whole = job(folder, 3)
    count = backbone.image_token_count(whole.messages, whole.images, whole.videos)
    keep = np.random.default_rng(0).random(count) < 0.5
    found = []
    for one, masking in ((replace(whole, keep=keep), "drop"), (replace(whole, keep=keep), "mask"), (whole, "mask")):
        read = Read.of(backbone, prompts_of(backbone, [one], masking=masking), [[]])
        found.append(read.logits(backbone))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert (found[0] - found[2]).abs().max() > 0.01


def clip(frames: int, times, duration: float, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip(tuple(noise(rng) for _ in range(frames)), tuple(times), tuple(range(frames)), duration)


def features_of(backbone, *clips) -> torch.Tensor:
    context = backbone.encode_prompt([user_message("What?", videos=len(clips))], videos=clips)
    (features,) = backbone.media_features([context])
    assert len(features.tokens) == backbone.is_media(context.input_ids).sum()
    return features.tokens


def test_clips_of_different_lengths_in_a_prompt(backbone):
    """Transformers takes them only one at a time in half of the families: each is seen as it is alone."""
    clips = [clip(n, range(n), float(n), seed=n) for n in (1, 4, 3)]
    together = features_of(backbone, *clips)
    torch.testing.assert_close(together, torch.cat([features_of(backbone, one) for one in clips]))


def test_the_order_of_frames_matters(backbone, folder):
    one = clip(4, range(4), 4.0)
    other = replace(one, frames=one.frames[::-1])
    asked = [Job([user_message("What?", videos=1)], videos=(each,)) for each in (one, other)]
    odds = np.log(backbone.choose(asked, ["A", "No"]))
    assert abs(odds[0] - odds[1]).max() > 0.01


def test_the_same_media_in_another_order_are_another_prompt(backbone, folder):
    parity.assert_orders_differ(backbone, open_image(folder / "p.png"), clip(2, range(2), 2.0))


def test_questions_about_a_clip_have_it_processed_once(backbone, monkeypatch):
    calls, process = [], backbone.process
    monkeypatch.setattr(backbone, "process", lambda **inputs: calls.append(inputs) or process(**inputs), raising=False)
    one = clip(3, range(3), 3.0)
    jobs = [Job([user_message(f"What {number}?", videos=1)], videos=(one,)) for number in range(4)]
    jobs.append(Job([user_message("Both?", videos=2)], videos=(one, one)))
    together = backbone.choose(jobs, ["A", "No"])
    assert len(calls) == 1
    np.testing.assert_allclose(together, [backbone.choose([job], ["A", "No"])[0] for job in jobs], atol=1e-5)


def test_a_clip_in_two_contexts_is_opened_and_processed_once(backbone, folder, monkeypatch):
    opened, calls, process = [], [], backbone.process
    monkeypatch.setattr(encoding, "open_clip", lambda *a: opened.append(a[0]) or open_clip(*a))
    monkeypatch.setattr(
        backbone, "process", lambda **inputs: calls.append("videos" in inputs) or process(**inputs), raising=False
    )
    one = replace(record(2), rejected_videos=(), rejected_images=("q.png",), rejected_prompt=record(2).prompt)
    encoded = encoding.Encoder(backbone, (*VIEWS, "chosen@rejected_prompt"), frames=FRAMES)(one, folder)
    assert len(encoded.contexts) == 3
    assert opened == ["b.avi"]
    assert sum(calls) == 1
    assert len(calls) == 3  # and the two pictures


def test_tokens_for_clips_that_the_model_does_not_fill_are_refused(backbone):
    name = type(backbone).__name__
    if name not in ("LlavaOnevision", "LlavaNextVideo"):
        pytest.skip("its processor does not guess how many tokens the model pools a frame to")
    setting = "num_image_tokens" if name == "LlavaOnevision" else "patch_size"
    right = getattr(backbone.processor, setting)
    try:
        for wrong in (right * 4, right // 2):
            setattr(backbone.processor, setting, wrong)
            with pytest.raises(InputError, match="do not fit this model"):
                features_of(backbone, clip(3, range(3), 3.0))
    finally:
        setattr(backbone.processor, setting, right)


def test_whether_frames_are_capped_is_said_and_not_left_to_transformers(backbone):
    if not isinstance(backbone, MRope):
        pytest.skip("its video processor has no such setting")
    made = build(backbone.hf_model.config.model_type, native=True)
    video = made.processor.video_processor
    assert video.cap_pixels_per_frame is False
    assert video.to_dict()["cap_pixels_per_frame"] is False  # what a trained folder will have
    before = made.processor_fingerprint()
    video.cap_pixels_per_frame = True
    kept = type(made)(made.model, made.processor, native_video=True)
    assert video.cap_pixels_per_frame is True, "a folder's own word stands"
    assert kept.processor_fingerprint() != before


def test_times_are_the_clips_own(backbone):
    """Also where the rate varies: those of Qwen3-VL and SmolVLM stand in the text, Qwen2.5-VL's in the positions."""
    times, name = (0.0, 0.5, 61.25, 63.75), type(backbone).__name__
    context = backbone.encode_prompt([user_message("What?", videos=1)], videos=[clip(4, times, 80.0)])
    text = backbone.tokenizer.decode(context.input_ids)
    if name == "Qwen3VL":
        assert [f"<{t} seconds>" in text for t in (0.2, 62.5)] == [True, True]
        assert text.count(" seconds>") == 2
    if name == "SmolVLM":
        assert "series of four frames from a 0:01:20 [H:MM:SS] video" in text
        assert [text.count(f"Frame from {t}:") for t in ("00:00", "01:01", "01:03")] == [2, 1, 1]
    if name == "InternVL":
        assert [text.count(f"Frame{i}: <img>") for i in range(1, 6)] == [1, 1, 1, 1, 0]
    if name == "Qwen2_5VL":
        media = backbone.is_media(context.input_ids)
        moments = context.positions[0, media].unique()
        step = backbone.hf_model.config.vision_config.tokens_per_second * 80 / 4 * 2  # two frames a patch
        assert (moments - moments[0]).tolist() == [0, int(step)]


def test_a_placeholder_for_clips_is_refused(backbone):
    mark, clips = backbone.marks["video"], [clip(2, (0, 1), 2.0)]
    with pytest.raises(InputError, match="the response holds"):
        backbone.encode_response([user_message("What?", videos=1)], [assistant_message(f"A {mark}.")])
    with pytest.raises(InputError, match="2 times"):
        backbone.encode_prompt([user_message(f"What is {mark}?", videos=1)], videos=clips)
    with pytest.raises(InputError, match="1 video placeholders in the prompt, but 0 videos"):
        backbone.encode_prompt([user_message("What?", videos=1)])


def test_a_template_that_knows_no_clips_says_what_to_do(backbone):
    if type(backbone).__name__ == "SmolVLM":
        pytest.skip("its processor has a template of its own for clips")
    template = backbone.processor.chat_template
    try:
        backbone.processor.chat_template = template.replace(backbone.marks["video"], "")
        with pytest.raises(InputError, match="template knows no clips: --video frames"):
            backbone.encode_prompt([user_message("What?", videos=1)], videos=[clip(2, (0, 1), 2.0)])
    finally:
        backbone.processor.chat_template = template


def test_text_of_a_prompt_is_the_same_under_any_clip(backbone):
    content = [
        {"type": "text", "text": "Compare"},
        {"type": "video"},
        {"type": "text", "text": "with"},
        {"type": "image"},
    ]
    content += [{"type": "video"}, {"type": "text", "text": "and this one."}]
    found = []
    for frames in (1, 5):
        clips = [clip(frames, range(frames), float(frames)), clip(2, (0, 1), 2.0)]
        context = backbone.encode_prompt(
            [{"role": "user", "content": content}], [clips[1].frames[0]], videos=clips, text_places=True
        )
        places = context.input_ids[context.text_places]
        assert not backbone.is_media(places).any()
        found.append(backbone.tokenizer.decode(places))
    assert found[0] == found[1]
    for words in ("Compare", "with", "and this one."):
        assert words in found[0]
    assert "econd" not in found[0] and "Frame" not in found[0]


def test_the_tower_runs_once_over_distinct_media(backbone, folder):
    """For policy and reference, for all views; and in as many calls where a batch has nothing to see."""
    weights = [w for name, w in backbone.model.named_parameters() if backbone.part_of(name) != "language"]
    for weight in weights:
        weight.requires_grad_(False)
    calls, first = [], next(part for part in backbone.tower.modules() if isinstance(part, nn.Conv2d | nn.Conv3d))
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    kinds = 2 if backbone.clips_apart else 1
    try:
        batch = batch_of(backbone, folder, [2, 4], share=True)
        found = []
        for share_tower in (True, False):
            calls.clear()
            engine = Engine(backbone, reference=True, share_tower=share_tower)
            found.append(engine(batch))
            assert len(calls) == kinds * (2 - share_tower)
        for ours, theirs in zip(*found, strict=True):
            for view in VIEWS:
                torch.testing.assert_close(ours[view].logps, theirs[view].logps, rtol=1e-5, atol=1e-5)
        for numbers in ([0], [1], [4], [2]):
            contexts = batch_of(backbone, folder, numbers, share=True).contexts
            calls.clear()
            backbone.media_features([*contexts, *backbone.blanks(contexts)])
            assert len(calls) == kinds
    finally:
        handle.remove()
        for weight in weights:
            weight.requires_grad_(True)


def test_noise_falls_on_clips_too(backbone, folder):
    context = batch_of(backbone, folder, [2], share=True).contexts[0]
    noised = backbone.with_noise(context, Noise(steps=500, seed=1))
    plain, other = (backbone.media_features([c])[0].tokens for c in (context, noised))
    moved = (plain - other).abs().amax(-1) > 1e-4
    assert moved.float().mean() > 0.8  # ends of lines and clips see no pixel


def test_loading_finds_the_video_processor(backbone, tmp_path):
    """Also of a folder that was written where there was no torchvision."""
    family = backbone.hf_model.config.model_type
    for number, made in enumerate((backbone, build(family))):
        folder = tmp_path / str(number)
        made.save(folder)
        native, frames = (backbones.load(folder, device="cpu", video=video) for video in ("auto", "frames"))
        assert native.native_video and not frames.native_video
        assert native.processor_fingerprint() != frames.processor_fingerprint()
        shown = [user_message("What?", videos=1)], (), None
        one = clip(3, (0, 1, 2), 3.0)
        expected = backbone.encode_prompt(*shown, videos=[one])
        assert torch.equal(native.encode_prompt(*shown, videos=[one]).input_ids, expected.input_ids)
        as_pictures = frames.encode_prompt(*shown, videos=[one])
        assert as_pictures.text.count(frames.marks["image"]) == 3
