"""Prompts and responses as tokens: the prefix property, the end of a turn, spans, placeholders."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmalign import backbones
from mmalign.records import InputError, assistant_message, user_message

PROMPT = [user_message("What is here?", images=1)]
PICTURE = Image.new("RGB", (64, 64), "red")

# As LLaVA-1.5's own: roles in plain text, and a space after each turn in the place of an end-of-turn token.
SPACED = """\
{%- for message in messages -%}
{{- message['role'].upper() + ': ' -}}
{%- for block in message['content'] if block['type'] == 'image' -%}{{- '<image>\n' -}}{%- endfor -%}
{%- for block in message['content'] if block['type'] == 'text' -%}{{- block['text'] + ' ' -}}{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"""


@pytest.fixture
def backbone(tiny_model):
    return backbones.load(tiny_model, device="cpu")


def test_a_prompt_and_its_response_are_the_whole_conversation(backbone):
    response = [assistant_message("A red circle.")]
    context = backbone.encode_prompt(PROMPT, [PICTURE])
    encoded = backbone.encode_response(PROMPT, response)
    whole = backbone.processor(
        text=[backbone.template([*PROMPT, *response], generation_prompt=False)], images=[PICTURE], return_tensors="pt"
    )["input_ids"][0]
    assert torch.equal(torch.cat([context.input_ids, encoded.input_ids]), whole)
    assert encoded.input_ids[-1].item() in backbone.end_token_ids


def test_the_space_after_a_turn_is_no_part_of_the_response(backbone):
    backbone.processor.chat_template = SPACED
    encoded = backbone.encode_response(PROMPT, [assistant_message("A red circle.")])
    words = backbone.tokenizer(" A red circle.")["input_ids"]
    assert encoded.input_ids.tolist() == [*words, backbone.tokenizer.eos_token_id]


def test_a_template_without_the_prefix_property_is_refused(backbone):
    backbone.processor.chat_template = "{{- messages | length -}}" + SPACED
    with pytest.raises(InputError, match="no prefix of prompt"):
        backbone.encode_response(PROMPT, [assistant_message("A red circle.")])


def test_a_template_that_refuses_the_turns_says_so_in_one_line(backbone):
    backbone.processor.chat_template = "{{- raise_exception('System role not supported') -}}"
    with pytest.raises(InputError, match="refuses turns of system, user: System role not supported"):
        backbone.encode_prompt(
            [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *PROMPT], [PICTURE]
        )


@pytest.mark.parametrize("template", [None, SPACED], ids=["its own", "LLaVA-1.5's"])
@pytest.mark.parametrize("lead", ["", "  "], ids=["plain", "space first"])
def test_spans_are_those_of_the_text_as_it_stands_in_the_record(backbone, template, lead):
    backbone.processor.chat_template = template or backbone.processor.chat_template
    text = lead + "A red circle and a blue star."
    start = text.index("blue")
    encoded = backbone.encode_response(PROMPT, [assistant_message(text)], [(start, start + len("blue star"))])
    marked = backbone.tokenizer.decode(encoded.input_ids[encoded.spans.bool()])
    assert marked.strip() == "blue star"


def test_placeholders_and_images_match_in_number(backbone):
    with pytest.raises(InputError, match="1 image placeholders in the prompt, but 0 images"):
        backbone.encode_prompt(PROMPT, [])
    with pytest.raises(InputError, match="2 times"):
        backbone.encode_prompt([user_message("<image>\nWhat is here?", images=1)], [PICTURE])


def test_a_placeholder_in_a_response_is_refused(backbone):
    with pytest.raises(InputError, match="the response holds"):
        backbone.encode_response(PROMPT, [assistant_message("An <image>.")])


def test_a_family_that_is_not_known_is_refused(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vipllava"}))
    with pytest.raises(InputError, match="'vipllava' are not supported"):
        backbones.load(folder, device="cpu")


def test_a_folder_without_some_weights_is_refused(tiny_model, tmp_path):
    """transformers would fill in random ones, and go on."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    save_file({n: w for n, w in weights.items() if n != name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 of the model's weights"):
        backbones.load(folder, device="cpu")
