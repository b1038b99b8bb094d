"""What a model's processor is asked, how often, and what is said where it refuses or does not fit the model."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from PIL import Image

from mmalign.backbones import Job, Processed
from mmalign.media import Clip
from mmalign.records import InputError, MediaError, user_message
from tests.families import build
from tests.tiny import noise

PICTURE, OTHER = (noise(np.random.default_rng(seed)) for seed in (0, 1))
STRIP = Image.new("RGB", (1000, 4))  # which Qwen-VL does not take


@pytest.fixture
def qwen():
    return build("qwen2_5_vl")


def counted(backbone, monkeypatch) -> list[int]:
    """How many pictures the processor is shown from now on, in each call."""
    shown, process = [], backbone.process
    monkeypatch.setattr(
        backbone, "process", lambda **inputs: shown.append(len(inputs["images"])) or process(**inputs), raising=False
    )
    return shown


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_questions_about_a_picture_have_it_processed_once(qwen, monkeypatch, batch_size):
    shown = counted(qwen, monkeypatch)
    jobs = [
        Job([user_message(f"What {number}?", images=1)], (picture,))
        for picture in (PICTURE, OTHER)
        for number in range(4)
    ]
    texts = qwen.generate(jobs, max_new_tokens=4, batch_size=batch_size)
    assert shown == [1, 1]
    assert texts == [qwen.generate([job], max_new_tokens=4)[0] for job in jobs]


def test_no_more_is_held_than_was_asked_for(qwen, monkeypatch):
    shown = counted(qwen, monkeypatch)
    processed = Processed(most=1)
    for picture in (PICTURE, PICTURE, OTHER, OTHER, PICTURE):
        qwen.encode_prompt([user_message("", images=1)], [picture], processed=processed)
    assert len(shown) == 3


def test_pixels_of_a_batch_are_in_memory_and_no_more(qwen, monkeypatch):
    pixels, alive, process = [], [], qwen.process

    def spy(**inputs):
        alive.append(sum(each() is not None for each in pixels))
        found = process(**inputs)
        pixels.append(weakref.ref(found["pixel_values"]))
        return found

    monkeypatch.setattr(qwen, "process", spy, raising=False)
    pictures = [noise(np.random.default_rng(seed)) for seed in range(7)]
    jobs = [Job([user_message("What?", images=1)], (picture,)) for picture in pictures]
    qwen.generate(jobs, max_new_tokens=1, batch_size=2)
    assert alive == [0, 1, 2, 2, 2, 2, 2]


def test_pixels_of_one_picture_or_prompt_are_not_copied(qwen):
    processed = Processed()
    prompt = [user_message("What?", images=1)]
    one, again = (qwen.encode_prompt(prompt, [PICTURE], processed=processed) for _ in range(2))
    assert one.media["pixel_values"] is again.media["pixel_values"]
    assert qwen.merge_media([one.media])["pixel_values"].data_ptr() == one.media["pixel_values"].data_ptr()


def test_a_picture_that_the_processor_refuses_is_named(qwen):
    with pytest.raises(MediaError, match="takes no 1000 x 4 pixels: .*aspect ratio") as caught:
        qwen.encode_prompt([user_message("What?", images=3)], [PICTURE, STRIP, PICTURE])
    assert (caught.value.reason, caught.value.field) == ("refused", "images[1]")


def test_a_clip_is_named_whose_frames_the_processor_refuses(qwen):
    good, bad = (Clip((frame, frame), (0.0, 1.0), (0, 1), 2.0) for frame in (PICTURE, STRIP))
    job = Job([user_message("What?", images=1, videos=2)], (PICTURE,), videos=(good, bad))
    with pytest.raises(MediaError) as caught:
        qwen.generate([job], max_new_tokens=1)
    assert (caught.value.reason, caught.value.field) == ("refused", "videos[1]")


def test_an_answer_about_a_clip_shown_as_pictures_can_be_begun(qwen):
    """A clip is several placeholders in the prompt, and as many where the answer stands behind it."""
    clip = Clip((PICTURE, OTHER), (0.0, 1.0), (0, 1), 2.0)
    as_clip = Job([user_message("What?", videos=1)], videos=(clip,), prefix="A red")
    as_pictures = Job([user_message("What?", images=2)], clip.frames, prefix="A red")
    texts = [qwen.generate([job], max_new_tokens=6) for job in (as_clip, as_pictures)]
    assert texts[0] == texts[1] != [""]


def test_a_placeholder_in_a_question_is_the_prompts_fault(qwen):
    with pytest.raises(InputError, match="1 times") as caught:
        qwen.encode_prompt([user_message(f"What is {qwen.marks['image']}?")])
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision"])
def test_a_processor_that_does_not_fit_the_model_says_so(family):
    backbone = build(family)
    if family == "llava_onevision":
        backbone.processor.num_image_tokens *= 4
    else:
        backbone.processor.patch_size //= 2
    with pytest.raises(InputError, match=r"do not fit this model: \d+ places in the prompts, \d+ features"):
        backbone.generate([Job([user_message("What?", images=1)], (PICTURE,))], max_new_tokens=1)
