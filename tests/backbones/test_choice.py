"""Probabilities among answers, against plain forwards of transformers, one for each whole answer."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmalign.backbones import Job, _choice
from mmalign.records import InputError, assistant_message, user_message
from tests.families import build

ANSWERS = {
    "one token each": ["A", "B"],
    "three of uneven lengths": ["red circle", "blue", "Yes, green square"],
    "a beginning in common": ["It is red", "It is blue"],
}


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", "smolvlm", "gemma3"])
def backbone(request):
    return build(request.param)


def jobs() -> list[Job]:
    """Uneven prompts, of which two show the same picture and one shows none."""
    rng = np.random.default_rng(0)
    one, two = (Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in ((60, 60, 3), (50, 120, 3)))
    return [
        Job([user_message("What is here? Answer at once.", images=1)], (one,)),
        Job([user_message("Is it red?", images=1)], (one,)),
        Job([user_message("Both?", images=2)], (two, one)),
        Job([user_message("Nothing?")]),
    ]


def oracle(backbone, job: Job, answers: list[str]) -> np.ndarray:
    """Log-probability of all tokens of prefix and answer after the prompt, normalised over the answers."""
    context = backbone.encode_prompt(job.messages, job.images)
    scores = []
    for answer in answers:
        response = backbone.encode_response(job.messages, [assistant_message(job.prefix + answer)]).input_ids[:-1]
        inputs = {"input_ids": torch.cat([context.input_ids, response])[None], **context.media}
        if "image_grid_thw" in context.media:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == backbone.image_token_id).long()
        if backbone.hf_model.config.model_type == "gemma3":
            inputs["token_type_ids"] = (inputs["input_ids"] == backbone.image_token_id).long()
        with torch.no_grad():
            logps = backbone.model(**inputs).logits[0].double().log_softmax(-1)
        before = len(context.input_ids) - 1
        scores.append(logps[before:-1].gather(-1, response[:, None]).sum())
    return torch.stack(scores).softmax(-1).numpy()


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("prefix", ["", "Well, "])
def test_probabilities_are_those_of_whole_answers(backbone, name, prefix):
    answers = ANSWERS[name]
    asked = [replace(job, prefix=prefix) for job in jobs()]
    found = backbone.choose(asked, answers)
    assert found.shape == (4, len(answers)) and found.dtype == np.float64
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    expected = np.log(np.stack([oracle(backbone, job, answers) for job in asked]))
    np.testing.assert_allclose(np.log(found), expected, atol=1e-4)
    assert (expected[:, 0] - expected[:, -1]).std() > 0.01, "the prompts matter"


@pytest.mark.parametrize("name", ANSWERS)
def test_neither_batch_nor_order_matters(backbone, name):
    together = backbone.choose(jobs(), ANSWERS[name])
    np.testing.assert_allclose(backbone.choose(jobs(), ANSWERS[name], batch_size=1), together, atol=1e-6)
    np.testing.assert_allclose(backbone.choose(jobs()[::-1], ANSWERS[name], batch_size=3)[::-1], together, atol=1e-6)
    turned = backbone.choose(jobs(), ANSWERS[name][::-1])[:, ::-1]
    np.testing.assert_allclose(turned, together, atol=1e-6)


def test_a_picture_that_several_prompts_show_is_looked_at_once(backbone, monkeypatch):
    seen = []
    plain = backbone.merge_media
    monkeypatch.setattr(backbone, "merge_media", lambda contexts: seen.append(len(contexts)) or plain(contexts))
    backbone.choose(jobs()[:2], ["A", "B"])
    assert seen == [1]


def test_a_hidden_picture_is_not_seen(backbone):
    one = jobs()[0]
    count = backbone.image_token_count(one.messages, one.images)
    other = replace(one, images=(Image.new("RGB", (60, 60), "red"),))
    seen = backbone.choose([one, other], ["A", "B"])
    hidden = backbone.choose([replace(job, keep=np.zeros(count, bool)) for job in (one, other)], ["A", "B"])
    assert abs(seen[0, 0] - seen[1, 0]) > 1e-3
    np.testing.assert_allclose(hidden[0], hidden[1], atol=1e-6)


def test_no_jobs(backbone):
    assert backbone.choose([], ["A", "B"]).shape == (0, 2)


@pytest.mark.parametrize("answers, problem", [
    (["A"], "two or more"), (["A", " "], "none empty"), (["A", "A"], "begins with"), (["Yes", "Yes, sir"], "begins"),
])  # fmt: skip
def test_answers_that_do_not_exclude_each_other(backbone, answers, problem):
    with pytest.raises(InputError, match=problem):
        backbone.choose(jobs(), answers)


@pytest.mark.parametrize("name", ANSWERS)
def test_in_bfloat16_differences_are_not_lost_in_the_size_of_the_logits(name, monkeypatch):
    """Logits around 24, where bfloat16 knows multiples of 1/8, of prompts that differ by less."""
    exact = build("qwen2_5_vl")
    hidden = []
    with exact.head.register_forward_pre_hook(lambda _, given: hidden.append(given[0].float())):
        exact.choose(jobs(), ["A", "B"])
    common = torch.cat(hidden).mean(0)
    with torch.no_grad():
        exact.head.weight.add_(24 * common / common.norm() ** 2)
    coarse = build("qwen2_5_vl")
    coarse.model.load_state_dict(exact.model.state_dict())
    coarse.model.to(torch.bfloat16)
    heads = []
    monkeypatch.setattr(coarse.head, "forward", lambda x: heads.append(x) or nn.Linear.forward(coarse.head, x))
    found, expected = (np.log(backbone.choose(jobs(), ANSWERS[name])) for backbone in (coarse, exact))
    assert {x.dtype for x in heads} == {torch.float32}
    assert coarse.head.weight.dtype == torch.bfloat16
    assert np.abs(found - expected).max() < 0.06
    assert len({*found[:, 0]}) == len(found)


def _adapted(backbone, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(backbone.model, LoraConfig(r=4, init_lora_weights=False, **options))
    return backbone.around(model)


HEADS = {
    "plain": lambda backbone: backbone,
    "LoRA": lambda backbone: _adapted(backbone, target_modules=["lm_head"]),
    "LoRA, decomposed": lambda backbone: _adapted(backbone, target_modules=["lm_head"], use_dora=True),
    "a copy that trains": lambda backbone: _adapted(backbone, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "tokens that train": lambda backbone: _adapted(
        backbone, target_modules=["q_proj"], trainable_token_indices={"lm_head": [5, 66]}
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_some_rows_of_any_head(kind, monkeypatch):
    """Those of the whole head, with bias and adapter, whatever the size of a tile; the head stays what it was."""
    backbone = build("llava")
    plain = backbone.head
    plain.bias = nn.Parameter(torch.linspace(-3, 3, plain.out_features))
    backbone = HEADS[kind](backbone)
    with torch.no_grad():
        for number, weight in enumerate(backbone.head.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.2)
    head = backbone.head.eval()
    hidden, tokens = torch.randn(3, 32), torch.tensor([66, 5, 100])
    with torch.inference_mode():
        whole = deepcopy(head)(hidden)
        monkeypatch.setattr(_choice, "_TILE", 7)
        torch.testing.assert_close(_choice._logits(head, hidden, tokens), whole[:, tokens])
        expected = whole.double().log_softmax(-1)[range(3), tokens]
        torch.testing.assert_close(_choice._scores(head, hidden, tokens), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(head(hidden), whole)
        head.to(torch.bfloat16)
        coarse = _choice._logits(head, hidden.bfloat16(), tokens)
        torch.testing.assert_close(coarse, head.float()(hidden.bfloat16().float())[:, tokens])
    if kind != "plain":
        assert (whole - plain(hidden)).abs().max() > 0.1, "the adapter matters"


def test_numbers_beyond_the_dtypes_range_are_no_answer():
    backbone = build("llava")
    with torch.no_grad():
        backbone.decoder.norm.weight.mul_(3e4)
    backbone.model.to(torch.float16)
    with pytest.raises(InputError, match="beyond the dtype's range: give --dtype bfloat16 or float32"):
        backbone.choose(jobs(), ["A", "B"])
    with pytest.raises(InputError, match="beyond the dtype's range"):
        backbone.generate(jobs(), max_new_tokens=2)
    backbone = build("llava")
    backbone.head.weight.data[7] = torch.nan
    with pytest.raises(InputError, match="float32: the model computes NaN"):
        backbone.generate(jobs(), max_new_tokens=2, temperature=1.0)
    with pytest.raises(InputError, match="float32: the model computes NaN"):
        backbone.choose(jobs(), ["red circle", "blue"])
    backbone.head.weight.data[7] = 0.0
    backbone.head.bias = nn.Parameter(
        torch.zeros(backbone.head.out_features).index_fill(0, torch.tensor(7), -torch.inf)
    )
    assert len(backbone.generate(jobs(), max_new_tokens=2)) == len(jobs()), "a token may be ruled out"
