"""Generation against transformers' own, and what masking image tokens does and does not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign import backbones
from mmalign.backbones import Job, _generation, _reading
from mmalign.records import user_message

PROMPT = [user_message("Describe the image.", images=1)]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def backbone(tiny_model):
    return backbones.load(tiny_model, device="cpu")


def jobs(count: int, **options) -> list[Job]:
    return [Job(PROMPT, (picture(i),), seed=100 + i, **options) for i in range(count)]


def test_greedy_text_is_that_of_transformers_generate(backbone):
    ours = backbone.generate(jobs(3), max_new_tokens=12)
    for i, text in enumerate(ours):
        context = backbone.encode_prompt(PROMPT, [picture(i)])
        ids = context.input_ids[None]
        out = backbone.model.generate(input_ids=ids, **context.media, max_new_tokens=12, do_sample=False)
        assert text == backbone.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_row_does_not_depend_on_its_batch(backbone):
    together = backbone.generate(jobs(5, prefix="There is"), max_new_tokens=10, temperature=1.0)
    alone = [backbone.generate([job], max_new_tokens=10, temperature=1.0)[0] for job in jobs(5, prefix="There is")]
    assert together == alone
    assert len(set(together)) == 5


def test_a_seed_repeats_and_another_differs(backbone):
    first, again, other = (
        backbone.generate([Job(PROMPT, (picture(0),), seed=s)], max_new_tokens=10, temperature=1.0) for s in (1, 1, 2)
    )
    assert first == again != other


def test_prefix_is_continued_and_not_repeated(backbone):
    whole = backbone.generate(jobs(1), max_new_tokens=12)[0]
    head = backbone.tokenizer.decode(backbone.tokenizer(whole)["input_ids"][:4])
    rest = backbone.generate(jobs(1, prefix=head), max_new_tokens=8)[0]
    assert head + rest == whole


def test_keeping_every_image_token_changes_nothing(backbone):
    count = backbone.image_token_count(PROMPT, [picture(0)])
    assert count == 64
    assert backbone.generate(jobs(2, keep=np.ones(count, bool)), max_new_tokens=10) == backbone.generate(
        jobs(2), max_new_tokens=10
    )


def test_hiding_every_image_token_hides_the_picture(backbone):
    hidden = np.zeros(64, bool)
    blind = [Job(PROMPT, (picture(i),), seed=7, keep=hidden) for i in range(4)]
    texts = backbone.generate(blind, max_new_tokens=10, temperature=1.0)
    assert len(set(texts)) == 1
    seeing = backbone.generate(
        [Job(PROMPT, (picture(i),), seed=7) for i in range(4)], max_new_tokens=10, temperature=1.0
    )
    assert len(set(seeing)) > 1


def test_stop_ends_a_row_alone(backbone):
    texts = backbone.generate(jobs(3), max_new_tokens=12, stop=lambda text: len(text) >= 5)
    longer = backbone.generate(jobs(3), max_new_tokens=12)
    for short, long in zip(texts, longer, strict=True):
        assert long.startswith(short)
        assert len(short) < len(long)


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(20000, 1)
    uniform = (np.arange(20000) + 0.5) / 20000
    drawn = _generation._choose(logits, uniform, temperature=1.0, top_p=1.0)
    share = torch.bincount(drawn, minlength=4) / 20000
    torch.testing.assert_close(share, logits[0].softmax(-1), rtol=0, atol=1e-3)
    nucleus = _generation._choose(logits, uniform, temperature=1.0, top_p=0.7)
    assert set(nucleus.tolist()) == {1, 2}  # 0.64 is not enough, 0.64 + 0.24 is


def test_one_encoding_for_jobs_of_one_key(backbone, monkeypatch):
    calls = []
    plain = backbone.encode_prompt
    monkeypatch.setattr(backbone, "encode_prompt", lambda *a: calls.append(1) or plain(*a))
    backbone.generate([Job(PROMPT, (picture(0),), key="a", prefix=p) for p in ("There", "A", "")], max_new_tokens=2)
    assert len(calls) == 1


def test_a_prefix_has_the_tokens_that_it_has_in_a_whole_answer(backbone, monkeypatch):
    """Also where the template puts a space before the answer, as LLaVA-1.5's does."""
    from mmalign.records import assistant_message

    spaced = (
        "{% for m in messages %}{% if m.role == 'user' %}USER: {% for b in m.content %}"
        "{% if b.type == 'image' %}<image>{% else %}{{ b.text }}{% endif %}{% endfor %}"
        "{% else %} {{ m.content[0].text }}<|end|>{% endif %}{% if loop.last and add_generation_prompt %} ASSISTANT:"
        "{% elif m.role == 'user' %} ASSISTANT:{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(backbone.processor, "chat_template", spaced)
    context = backbone.encode_prompt(PROMPT, [picture(0)])
    prefix = _reading.prefix_ids(backbone, _reading.Prompt.of(context, None), Job(PROMPT, prefix="There is"))
    trained = backbone.encode_response(PROMPT, [assistant_message("There is a red circle.")])
    assert trained.input_ids[: len(prefix)].tolist() == prefix
    assert len(prefix) > 0
