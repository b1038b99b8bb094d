"""What a step computes once: the tower, and what policy and reference need of each other."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mmalign.forward import Batch, Encoder, Engine
from mmalign.records import RecordFile
from tests.families import build

VIEWS = ("chosen", "rejected")


@pytest.fixture
def backbone():
    return build("llava")


@pytest.fixture(scope="module")
def records(pairs):
    return RecordFile(pairs)


def batch_of(backbone, records, indices, *, share=True) -> Batch:
    encoder = Encoder(backbone, VIEWS)
    encoded = [encoder(records[index], records.media_root) for index in indices]
    return Batch.of(encoded, VIEWS, backbone.pad_token_id, share=share)


def freeze_tower(backbone) -> None:
    for name, weight in backbone.model.named_parameters():
        weight.requires_grad_(backbone.part_of(name) != "tower")


def adapt(backbone, *targets: str) -> None:
    """An adapter that has moved: its second factor is not zero."""
    backbone.model = get_peft_model(backbone.model, LoraConfig(r=4, target_modules=list(targets)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)


def count_pictures(backbone, monkeypatch) -> list[int]:
    """A list to which every call of the tower adds how many pictures it got."""
    calls, run = [], backbone.tower.forward
    monkeypatch.setattr(
        backbone.tower, "forward", lambda pixels, **options: calls.append(len(pixels)) or run(pixels, **options)
    )
    return calls


@pytest.mark.parametrize("share", [True, False], ids=["shared rows", "plain rows"])
def test_policy_and_reference_look_once(backbone, records, monkeypatch, share):
    adapt(backbone, "q_proj", "v_proj", "linear_1")
    for name, weight in backbone.model.named_parameters():
        weight.requires_grad_(weight.requires_grad and "language_model" in name)
    adapter_in_tower = [n for n, _ in backbone.tower.named_parameters() if "lora_" in n]
    assert adapter_in_tower
    engine, batch = Engine(backbone, reference=True), batch_of(backbone, records, [0, 1, 2], share=share)
    calls = count_pictures(backbone, monkeypatch)
    engine(batch)
    assert calls == [4, 4], "an adapter in the tower makes two towers of it"

    plain = build("llava")
    adapt(plain, "language_model.layers.0.self_attn.q_proj")
    engine, calls = Engine(plain, reference=True), count_pictures(plain, monkeypatch)
    policy, reference = engine(batch)
    assert calls == [4], "three records with one, two and one pictures"
    assert (policy["chosen"].sum() - reference["chosen"].sum()).abs().min() > 1e-3
    engine(batch)
    assert calls == [4, 4], "another step looks again"


def test_a_frozen_copy_shares_what_never_trains(backbone, records, monkeypatch):
    freeze_tower(backbone)
    engine, batch = Engine(backbone, reference=True), batch_of(backbone, records, [0, 1])
    own = {id(weight) for weight in engine.policy.parameters()}
    copied = [weight for weight in engine.frozen.parameters() if id(weight) not in own]
    trainable = [weight for weight in engine.policy.parameters() if weight.requires_grad]
    assert sum(w.numel() for w in copied) == sum(w.numel() for w in trainable)
    assert not any(weight.requires_grad for weight in copied)
    calls = count_pictures(backbone, monkeypatch)
    _, before = engine(batch)
    assert calls == [3]
    with torch.no_grad():
        for weight in trainable:
            weight.mul_(1.1)
    policy, after = engine(batch)
    torch.testing.assert_close(after["chosen"].logps, before["chosen"].logps)
    assert (policy["chosen"].sum() - after["chosen"].sum()).abs().min() > 1e-3


def test_a_tower_that_trains_has_its_gradient_and_a_copy(backbone, records, monkeypatch):
    engine, batch = Engine(backbone, reference=True), batch_of(backbone, records, [0, 1])
    calls = count_pictures(backbone, monkeypatch)
    policy, _ = engine(batch)
    assert calls == [3], "the copy has a tower of its own"
    policy["chosen"].sum().sum().backward()
    assert backbone.tower.embeddings.patch_embedding.weight.grad.abs().max() > 0


def test_without_sharing_every_row_looks_for_itself(backbone, records, monkeypatch):
    freeze_tower(backbone)
    batch = batch_of(backbone, records, [0, 1], share=False)
    expected, _ = Engine(backbone, reference=False)(batch)
    engine = Engine(backbone, reference=False, share_tower=False)
    calls = count_pictures(backbone, monkeypatch)
    found, _ = engine(batch)
    assert calls == [6]
    torch.testing.assert_close(found["rejected"].logps, expected["rejected"].logps)


@pytest.mark.parametrize("what", ["another attention", "layers that are no attention"])
def test_who_cannot_branch_takes_plain_rows_and_still_looks_once(backbone, records, monkeypatch, what):
    freeze_tower(backbone)
    expected, _ = Engine(backbone, reference=False)(batch_of(backbone, records, [0, 1]))
    other = build("llava")
    freeze_tower(other)
    if what == "another attention":
        monkeypatch.setattr(type(other), "attention", "flash_attention_2")
    else:
        other.layer_types = ["full_attention", "linear_attention"]
    engine = Engine(other, reference=True)
    assert not engine.share_prefix and not engine.pack
    batch = batch_of(other, records, [0, 1], share=engine.share_prefix)
    assert not batch.branches
    calls = count_pictures(other, monkeypatch)
    found, _ = engine(batch)
    assert calls == [3], "pictures of two records, each once for both responses, policy and reference"
    torch.testing.assert_close(found["rejected"].logps, expected["rejected"].logps)


def whole_logits(backbone, batch) -> torch.Tensor:
    """Of the response tokens, from whole rows. Shape: (tokens, V)."""
    features = backbone.media_features(batch.contexts)
    mask = (batch.branch >= 0).long()
    hidden = backbone.run(batch.input_ids, features, mask, batch.positions).last_hidden_state
    return backbone.head(hidden).flatten(0, 1)[batch.source[batch.mask.bool()]]


@pytest.mark.parametrize("targets", [("q_proj",), ("q_proj", "lm_head")], ids=["adapter", "adapter on the head"])
def test_divergence_of_each_token(backbone, records, targets):
    adapt(backbone, *targets)
    batch = batch_of(backbone, records, [0, 1], share=False)
    with torch.no_grad(), backbone.model.disable_adapter():
        theirs = whole_logits(backbone, batch).log_softmax(-1)
    own = whole_logits(backbone, batch).log_softmax(-1)
    expected = (theirs.exp() * (theirs - own)).sum(-1)
    assert expected.max() > 1e-2

    policy, reference = Engine(backbone, reference=True, token_kl=True, entropy=True)(batch)
    found = torch.cat([policy[view].kl[policy[view].mask.bool()] for view in VIEWS])
    order = torch.cat([batch.views[view] for view in VIEWS])
    rows = torch.arange(len(batch.mask))[:, None].expand_as(batch.mask)[batch.mask.bool()]
    by_view = torch.cat([(rows == number).nonzero()[:, 0] for number in order])
    torch.testing.assert_close(found, expected[by_view], rtol=1e-4, atol=1e-6)
    entropy = torch.cat([policy[view].entropy[policy[view].mask.bool()] for view in VIEWS])
    torch.testing.assert_close(entropy, -(own.exp() * own).sum(-1).detach()[by_view], rtol=1e-4, atol=1e-5)
    assert reference["chosen"].kl is None

    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    ours = torch.autograd.grad(found.sum(), weights, allow_unused=True)
    plain = torch.autograd.grad(expected.sum(), weights, allow_unused=True)
    largest = max(gradient.abs().max() for gradient in plain if gradient is not None).item()
    for mine, gradient in zip(ours, plain, strict=True):
        if gradient is not None:
            torch.testing.assert_close(mine, gradient, rtol=1e-3, atol=1e-5 * largest)


def test_divergence_is_nothing_before_anything_has_moved(backbone, records):
    policy, _ = Engine(backbone, reference=True, token_kl=True)(batch_of(backbone, records, [0, 1]))
    assert policy["chosen"].kl.abs().max() < 1e-5
