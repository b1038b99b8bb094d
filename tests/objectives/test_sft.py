"""Supervised fine-tuning: mean negative log-likelihood of each response."""

from __future__ import annotations

import torch

from mmalign.objectives import load, with_sft
from tests.objectives.helpers import numbers, random_views, stats


def loss(chosen):
    terms, metrics = load("sft")({"chosen": chosen}, None, numbers(len(chosen.present)))
    assert metrics == {}
    return terms["sft"].values


def test_worked_arithmetic():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -2.0, -9.0]])
    assert loss(stats(logps, [3, 2])).tolist() == [2.0, 3.0]


def test_oracle():
    """Against torch's own cross-entropy over logits."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 11, (3, 5), generator=generator)
    lengths = [5, 2, 4]
    logps = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    for i, length in enumerate(lengths):
        expected = torch.nn.functional.cross_entropy(logits[i, :length], targets[i, :length])
        torch.testing.assert_close(loss(stats(logps, lengths))[i], expected)


def test_limits():
    certain = stats(torch.zeros(2, 3))
    assert loss(certain).tolist() == [0.0, 0.0]
    once = random_views(("chosen",), 3)["chosen"].logps.detach()
    twice = torch.cat([once, once], dim=1)
    torch.testing.assert_close(loss(stats(once)), loss(stats(twice)))  # length does not matter


def test_gradient():
    logps = random_views(("chosen",), 1)["chosen"].logps.detach().requires_grad_()
    lengths = [6, 5, 4, 6]
    assert torch.autograd.gradcheck(lambda x: loss(stats(x, lengths)), logps)
    loss(stats(logps, lengths)).sum().backward()
    expected = -stats(logps, lengths).mask / torch.tensor(lengths)[:, None]
    torch.testing.assert_close(logps.grad, expected)


def test_beside_another_objective():
    """--sft_weight: the objective's own terms and metrics, and this one."""
    views = ("chosen", "rejected")
    policy, reference = random_views(views, 1), random_views(views, 2)
    dpo = load("dpo")
    both = with_sft(dpo, 0.5)
    assert both.views == views
    assert both.needs == dpo.needs
    expected, metrics = dpo(policy, reference, numbers(4))
    terms, same = both(policy, reference, numbers(4))
    assert set(terms) == {"dpo", "sft"}
    torch.testing.assert_close(terms["dpo"].values, expected["dpo"].values)
    lengths = policy["chosen"].mask.sum(-1)
    torch.testing.assert_close(terms["sft"].values, -0.5 * policy["chosen"].logps.sum(-1) / lengths)
    assert same.keys() == metrics.keys()
    assert with_sft(dpo, 0.0) is dpo
