"""The engine against a plain reading of the definition: one record, one response, one forward at a time."""

from __future__ import annotations

import pytest
import torch

from mmalign import backbones
from mmalign.forward import Batch, Encoder, Engine, RecordDataset
from mmalign.media import open_image
from mmalign.objectives import load
from mmalign.records import InputError, RecordFile

VIEWS = ("chosen", "rejected")


@pytest.fixture(scope="module")
def backbone(moved_model):
    return backbones.load(moved_model, device="cpu")


@pytest.fixture(scope="module")
def records(pairs):
    return RecordFile(pairs)


def batch_of(backbone, records, indices, share=True) -> Batch:
    dataset = RecordDataset(records, Encoder(backbone, VIEWS))
    return Batch.of([dataset[(i, True)] for i in indices], VIEWS, backbone.pad_token_id, share=share)


def oracle(backbone, records, index: int, view: str) -> torch.Tensor:
    """Summed log-probability of a response, from transformers alone: no padding, no batch, whole logits."""
    record = records[index]
    images = [open_image(path) for path in records.media(record)]
    text = backbone.processor.apply_chat_template(
        [*record.prompt, *getattr(record, view)], tokenize=False, add_generation_prompt=False
    )
    prompt = backbone.processor.apply_chat_template(list(record.prompt), tokenize=False, add_generation_prompt=True)
    inputs = backbone.processor(text=[text], images=images, return_tensors="pt")
    start = backbone.processor(text=[prompt], images=images, return_tensors="pt")["input_ids"].shape[1]
    logps = backbone.model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    return sum(logps[t - 1, ids[t]] for t in range(start, len(ids)))


@pytest.mark.parametrize("view", VIEWS)
def test_log_probabilities_equal_transformers_alone(backbone, records, view):
    indices = [0, 1, 2, 3, 7]  # one and two pictures, uneven lengths
    statistics, reference = Engine(backbone, reference=False)(batch_of(backbone, records, indices))
    expected = torch.stack([oracle(backbone, records, i, view) for i in indices])
    assert reference is None
    assert expected.abs().min() > 5
    torch.testing.assert_close(statistics[view].sum(), expected, rtol=1e-5, atol=0)


def test_gradients_equal_the_oracles(backbone, records):
    engine, weights = Engine(backbone, reference=False), list(backbone.model.parameters())
    batch = batch_of(backbone, records, [0, 1])
    statistics, _ = engine(batch)
    ours = torch.autograd.grad(
        (statistics["chosen"].sum() - statistics["rejected"].sum()).sum(), weights, allow_unused=True
    )
    plain = sum(oracle(backbone, records, i, "chosen") - oracle(backbone, records, i, "rejected") for i in (0, 1))
    theirs = torch.autograd.grad(plain, weights, allow_unused=True)
    scale = max(g.abs().max() for g in theirs if g is not None)
    for mine, expected in zip(ours, theirs, strict=True):
        if expected is not None:
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5 * scale.item())


def test_a_record_counts_the_same_in_any_batch(backbone, records):
    engine = Engine(backbone, reference=False)
    alone, _ = engine(batch_of(backbone, records, [3]))
    together, _ = engine(batch_of(backbone, records, [9, 3, 4]))
    torch.testing.assert_close(together["chosen"].sum()[1], alone["chosen"].sum()[0], rtol=1e-5, atol=0)


def test_end_of_turn_is_scored_and_nothing_after_it(backbone, records):
    batch = batch_of(backbone, records, [0])
    number = batch.views["chosen"][0]
    ids = batch.target[number][batch.mask[number].bool()].tolist()
    assert ids[-1] == backbone.tokenizer.eos_token_id
    text = backbone.tokenizer.decode(ids[:-1])
    assert text == records[0].chosen[0]["content"][0]["text"]


def test_frozen_copy_is_the_policy_before_training_moved_it(backbone, records):
    engine, batch = Engine(backbone, reference=True), batch_of(backbone, records, [0, 1])
    policy, reference = engine(batch)
    torch.testing.assert_close(policy["chosen"].logps, reference["chosen"].logps)
    assert not reference["chosen"].logps.requires_grad
    with torch.no_grad():
        for weights in backbone.model.parameters():
            weights.mul_(1.05)
    try:
        policy, after = engine(batch)
        assert (policy["chosen"].sum() - after["chosen"].sum()).abs().min() > 1e-3
        torch.testing.assert_close(after["chosen"].logps, reference["chosen"].logps)
    finally:
        with torch.no_grad():
            for weights in backbone.model.parameters():
                weights.div_(1.05)


def test_theta_equal_to_reference_gives_log_2(backbone, records):
    batch = batch_of(backbone, records, [0, 1, 2])
    policy, reference = Engine(backbone, reference=True)(batch)
    terms, metrics = load("dpo")(policy, reference, batch.numbers)
    torch.testing.assert_close(terms["dpo"].values, torch.full((3,), 2.0).log(), rtol=1e-5, atol=1e-6)
    assert metrics["rewards/margins"].abs().max() < 1e-5


def test_fillers_are_absent_and_missing_views_too(backbone, records):
    encoder = Encoder(backbone, VIEWS)
    whole, filler = (encoder(records[0], records.media_root, counted=c) for c in (True, False))
    batch = Batch.of([whole, filler], VIEWS, backbone.pad_token_id, share=True)
    statistics, _ = Engine(backbone, reference=False)(batch)
    assert statistics["chosen"].present.tolist() == [True, False]


def test_spans_mark_the_tokens_that_they_intersect(backbone, records):
    record = records[0]
    text = record.chosen[0]["content"][0]["text"]
    start = text.index("a ")
    response = backbone.encode_response(record.prompt, list(record.chosen), [(start, start + 1)])
    marked = [backbone.tokenizer.decode([i]) for i, s in zip(response.input_ids, response.spans, strict=True) if s]
    assert "".join(marked).strip() == "a"
    assert not backbone.encode_response(record.prompt, list(record.chosen)).spans.any()


def test_a_template_that_breaks_the_prefix_property_is_refused(backbone, records, monkeypatch):
    monkeypatch.setattr(
        backbone.processor, "chat_template", "{% if add_generation_prompt %}[{{ messages|length }}]{% endif %}x"
    )
    with pytest.raises(InputError, match="no prefix"):
        backbone.encode_response(records[0].prompt, list(records[0].chosen))
