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


def plain_choice(logits, uniform, temperature, top_p):
    """Token by token, all of the vocabulary sorted."""
    chosen = []
    for row, wanted in zip((logits.double() / temperature).softmax(-1).tolist(), uniform, strict=True):
        order = sorted(range(len(row)), key=lambda token: (-row[token], token))
        nucleus, mass = [], 0.0
        for token in order:
            if mass < top_p:
                nucleus.append(token)
                mass += row[token]
        reached = 0.0
        for token in nucleus:
            reached += row[token]
            if reached > wanted * mass:
                break
        chosen.append(token)
    return chosen


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 8.0])
@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "ties"])
def test_the_likeliest_tokens_decide_as_the_whole_vocabulary_does(top_p, scale, coarse):
    """Flat distributions and sharp ones, among more tokens than are looked at first."""
    size = 2 * _generation._LIKELIEST
    logits = torch.randn(40, size, generator=torch.Generator().manual_seed(0)) * scale
    logits = logits.bfloat16().float() if coarse else logits
    uniform = np.concatenate([np.random.default_rng(0).random(37), [0.0, 0.5, 1 - 2**-53]])
    drawn = _generation._choose(logits, uniform, 1.0, top_p)
    assert drawn.tolist() == plain_choice(logits, uniform, 1.0, top_p)


def unit() -> list[Job]:
    """Five pictures; three jobs on each, one prompt of them with two prefixes, in no order."""
    asked = []
    for i in range(5):
        shown = (picture(i),)
        asked += [Job(PROMPT, shown, prefix, key=f"a{i}", seed=10 * i + len(prefix)) for prefix in ("There is a", "")]
        asked.append(Job([user_message("Is it red? Say why.", images=1)], shown, key=f"b{i}", seed=99 + i))
    return [asked[i] for i in np.random.default_rng(0).permutation(len(asked))]


@pytest.mark.parametrize("batch_size", [1, 2, 4, None])
def test_a_unit_is_read_once_and_written_in_order(backbone, monkeypatch, batch_size):
    expected = [backbone.generate([job], max_new_tokens=9, temperature=1.0)[0] for job in unit()]
    prompts, pictures, rows = [], [], []
    encode, merge, run = backbone.encode_prompt, backbone.merge_media, backbone.run
    monkeypatch.setattr(backbone, "encode_prompt", lambda *a, **o: prompts.append(a) or encode(*a, **o))
    monkeypatch.setattr(backbone, "merge_media", lambda contexts: pictures.append(len(contexts)) or merge(contexts))
    monkeypatch.setattr(backbone, "run", lambda ids, *a, **o: rows.append(len(ids)) or run(ids, *a, **o))
    asked = unit()
    assert backbone.generate(asked, max_new_tokens=9, temperature=1.0, batch_size=batch_size) == expected
    assert len(set(expected)) == 15
    assert len(prompts) == 10, "every prompt is encoded once"
    assert sum(pictures) == 5 and max(pictures) <= (batch_size or 5), "every picture is looked at once"
    assert max(rows) == (batch_size or 15)


def prompt(length: int) -> _reading.Prompt:
    ids = torch.full((length,), 9)
    return _reading.Prompt(ids, ids[None], ids > 0, length, None)


def test_rows_of_like_length_stand_together(backbone):
    """With every prompt another, order is all there is to win."""
    lengths = [30, 5, 29, 6, 4, 31, 7]
    prompts, prefixes = [prompt(3) for _ in lengths], [[9] * (length - 3) for length in lengths]
    assert _reading.batches(backbone, prompts, prefixes, 3) == [[5, 0, 2], [6, 3, 1], [4]]
    assert _reading.batches(backbone, prompts, prefixes, 100) == [[5, 0, 2, 6, 3, 1, 4]]


def test_rows_of_one_long_prompt_stand_together(backbone):
    """Even where their lengths differ: it is read once."""
    first, second, short = prompt(600), prompt(600), prompt(20)
    prompts = [first, second, short, second, first, second, first]
    prefixes = [[9] * length for length in (1, 40, 30, 2, 30, 20, 10)]
    found = _reading.batches(backbone, prompts, prefixes, 3)
    assert [[prompts[i] for i in batch] for batch in found] == [[second] * 3, [first] * 3, [short]]
    assert [_reading.shares(backbone, *_reading._picked(batch, prompts, prefixes)) for batch in found] == [
        True, True, False]  # fmt: skip


def test_nothing_to_write(backbone):
    assert backbone.generate([], max_new_tokens=3, batch_size=2) == []


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
    prefix = _reading.prefix_ids(backbone, Job(PROMPT, prefix="There is"))
    trained = backbone.encode_response(PROMPT, [assistant_message("There is a red circle.")])
    assert trained.input_ids[: len(prefix)].tolist() == prefix
    assert len(prefix) > 0
