"""LoRA layers that add in place against peft's own."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mmalign.forward.lora import InPlaceLora, add_in_place


@pytest.fixture
def models():
    """A net with an adapter that has moved, and a copy of it with our layers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.SiLU(), nn.Linear(10, 4, bias=False))
    plain = get_peft_model(net, LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"]))
    with torch.no_grad():
        for weight in plain.parameters():
            weight.copy_(torch.randn_like(weight))
    ours = copy.deepcopy(plain)
    add_in_place(ours)
    assert sum(type(module) is InPlaceLora for module in ours.modules()) == 2
    assert ours.state_dict().keys() == plain.state_dict().keys()
    return plain, ours


def gradients(model, x) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = x.clone().requires_grad_()
    value = model(x)
    moving = [x, *(weight for weight in model.parameters() if weight.requires_grad)]
    return value, list(torch.autograd.grad((value * value).sum(), moving))


def test_values_and_gradients_are_the_same(models):
    plain, ours = models
    x = torch.randn(2, 5, 6)
    (expected, theirs), (found, mine) = gradients(plain, x), gradients(ours, x)
    assert found.shape == (2, 5, 4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_adapter_can_be_switched_off_and_folded_in(models):
    plain, ours = models
    x = torch.randn(3, 6)
    on = ours(x)
    with plain.disable_adapter(), ours.disable_adapter():
        torch.testing.assert_close(ours(x), plain(x))
        assert (ours(x) - on).abs().max() > 0.1
    torch.testing.assert_close(copy.deepcopy(ours).merge_and_unload()(x), on, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [True, False])
def test_lower_precision(models, autocast):
    """Under autocast all is bfloat16; without, peft computes a float32 adapter on a bfloat16 layer in float32."""
    plain, ours = models
    if not autocast:
        for model in models:
            for module in model.modules():
                if isinstance(module, InPlaceLora) or hasattr(module, "base_layer"):
                    module.base_layer.to(torch.bfloat16)
    x = torch.randn(3, 6, dtype=torch.float32 if autocast else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, found = plain(x), ours(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.2)


def test_what_is_not_plain_is_left_to_peft(models):
    plain, ours = models
    x = torch.randn(3, 6)
    for model in models:
        model.add_adapter("second", LoraConfig(r=2, target_modules=["0"]))
        model.base_model.set_adapter(["default", "second"])
    torch.testing.assert_close(ours(x), plain(x))
