from __future__ import annotations

import pytest
from PIL import Image

from mmalign.records import assistant_message, user_message
from mmalign.scenes.tiny import SPECIAL_TOKENS, build_model, build_processor, build_tokenizer, world_text

TALKS = {
    "blocks": [user_message("What is on the left?", images=1)],
    "string": [{"role": "user", "content": "Hello."}],
    "two pictures": [user_message("What happens first?", images=2)],
    "two turns": [
        user_message("What is on the left?", images=1),
        assistant_message("A red circle."),
        user_message("And above?"),
    ],
}


@pytest.fixture(scope="module")
def processor():
    return build_processor(build_tokenizer(world_text(100)))


def encode(processor, messages, **options):
    count = sum(
        block["type"] == "image" for message in messages for block in message["content"] if isinstance(block, dict)
    )
    text = processor.apply_chat_template(messages, **options)
    images = [Image.new("RGB", (100, 70), "white")] * count or None
    return text, processor(text=text, images=images).input_ids[0]


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("answer", ["A red circle.", "", "Größe: 3 cm\n\n“naïve” 🙂", " leading space"])
def test_prompt_is_a_prefix_of_prompt_with_answer(processor, name, answer):
    prompt, prompt_ids = encode(processor, TALKS[name], add_generation_prompt=True)
    whole, whole_ids = encode(processor, [*TALKS[name], assistant_message(answer)])
    assert whole == prompt + answer + "<|end|>"
    assert whole_ids[: len(prompt_ids)] == prompt_ids
    assert whole_ids[-1] == processor.tokenizer.eos_token_id


def test_continuing_an_answer_adds_no_end(processor):
    talk = [*TALKS["blocks"], assistant_message("There is a large")]
    text = processor.apply_chat_template(talk, continue_final_message=True)
    assert text == "<|user|><image>What is on the left?<|end|><|assistant|>There is a large"


def test_any_text_survives_the_tokenizer(processor):
    text = "".join(map(chr, range(32, 0x250))) + "漢字🙂\t\n\x00"
    assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_words_of_the_world_are_few_tokens(processor):
    text = "There is a large red circle in the bottom left corner. An orange star is below the red circle."
    assert len(processor.tokenizer(text).input_ids) <= 24


def test_special_tokens_are_single_tokens(processor):
    ids = processor.tokenizer("".join(SPECIAL_TOKENS)).input_ids
    assert ids == processor.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))


@pytest.mark.parametrize("size", [(64, 64), (400, 100), (7, 300)])
def test_any_picture_becomes_the_square_without_a_crop(processor, size):
    image = Image.new("RGB", size, "white")
    image.paste((0, 0, 0), (0, 0, size[0] // 4, size[1]))  # the left quarter, which a centre crop would lose
    inputs = processor(text="<image>", images=image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert inputs["pixel_values"][0, :, :, 2].max() < -0.9
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 64


def test_the_seed_decides_the_weights(processor):
    first, again, other = (build_model(processor.tokenizer, seed) for seed in (0, 0, 1))
    name = "model.multi_modal_projector.linear_1.weight"
    assert first.state_dict()[name].equal(again.state_dict()[name])
    assert not first.state_dict()[name].equal(other.state_dict()[name])
    assert sum(weight.numel() for weight in first.parameters()) < 1_900_000
