"""Objectives: token statistics in, loss terms out. Torch only; no model, no file, no batch layout.

An objective is one file with a frozen dataclass whose fields are its options. It names the *views* it wants
scored and what else it *needs*; the trainer supplies them and knows no method by name::

    objective = load("dpo", beta=0.2)
    terms, metrics = objective(policy, reference, batch)

A view is ``RESPONSE[@CONTEXT]``: RESPONSE is ``chosen``, ``rejected``, ``gold`` or ``responses``; CONTEXT is
``rejected_media`` or ``rejected_prompt``, and without one it is the record's own prompt and media.

Legend of shapes: B records, T response tokens (padded), K responses of a ranked list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mmalign import plugins

NEEDS = frozenset({"reference", "token_kl", "spans", "prompt_logps", "ref_hidden", "score"})
"""Everything an objective can ask for beyond the views' log-probabilities."""


@dataclass(frozen=True)
class TokenStats:
    """What one model says of one view, token by token.

    Shape: ``logps``, ``mask``, ``kl``, ``spans``, ``entropy`` are (B, T); ``present`` is (B,). For the view
    ``responses`` each has an axis K after B. ``logps`` is 0 where ``mask`` is 0. ``present`` is False for records that
    lack the view; their rows hold zeros.
    """

    logps: Tensor
    mask: Tensor
    present: Tensor
    kl: Tensor | None = None
    spans: Tensor | None = None
    entropy: Tensor | None = None

    def sum(self, *, end_of_turn: bool = True) -> Tensor:
        """Log-probability of each whole response, or of all but its last token, the end of the turn. Shape: (B,)."""
        if end_of_turn:
            return self.logps.sum(-1)
        place = torch.arange(self.mask.shape[-1], device=self.mask.device)
        return (self.logps * (place < self.mask.sum(-1, keepdim=True) - 1)).sum(-1)

    def mean(self) -> Tensor:
        """Log-probability per token of each response; 0 for an absent one. Shape: (B,)."""
        return self.sum() / self.mask.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class Term:
    """One additive part of a loss: coefficients applied, never averaged.

    Shape: ``values`` and ``present`` are (B,). The trainer adds ``weight * value`` over the present records
    and divides by how many there are in the whole optimisation step, over micro-batches and ranks alike, so
    that no loss depends on how a step is cut.
    """

    values: Tensor
    present: Tensor


Terms = dict[str, Term]
Metrics = dict[str, Tensor]
Views = Mapping[str, TokenStats]


class Objective(Protocol):
    """What the trainer expects of an objective."""

    views: tuple[str, ...]
    needs: frozenset[str]

    def __call__(
        self, policy: Views, reference: Views | None, batch: Mapping[str, Tensor], state: Any = None
    ) -> tuple[Terms, Metrics]:
        """Loss terms, and metrics of shape (B,) to be logged (NaN where a record has none)."""


def load(name: str, **options: Any) -> Objective:
    """The objective ``name`` (a file here, or ``path/to/my_loss.py:MyLoss``) with ``options`` set."""
    return plugins.find_class(__name__, name)(**options)


def with_sft(objective: Objective, weight: float) -> Objective:
    """``objective`` with ``weight`` times the SFT loss of the chosen response beside it; itself for 0."""
    from mmalign.objectives._with_sft import WithSFT

    return WithSFT(objective, weight) if weight else objective


def counted_terms(
    objective: Objective, views: Mapping[str, Tensor], numbers: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Which records each term counts: asked of the objective itself, before any model has run.

    An objective decides presence by the views that records have, so statistics of zeros are enough to tell.

    Args:
        views: which records have each view. Shape: (B,), or (B, K) for ``responses``.
        numbers: the records' own numbers. Shape of each: (B,).

    Returns:
        By the name of the term. Shape of each: (B,), boolean.
    """
    stats = {}
    for view, have in views.items():
        zeros = torch.zeros(*have.shape, 1)
        stats[view] = TokenStats(zeros, zeros, have.reshape(len(have), -1).any(-1), kl=zeros, spans=zeros)
    terms, _ = objective(stats, stats, numbers)
    return {name: term.present for name, term in terms.items()}


def reward_metrics(chosen: Tensor, rejected: Tensor, present: Tensor) -> Metrics:
    """The four standard curves of a pairwise objective.

    Args:
        chosen, rejected: implicit rewards, beta * log(policy / reference). Shape: (B,).
        present: records that have both. Shape: (B,).
    """
    chosen, rejected = chosen.detach(), rejected.detach()
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
    }
    missing = torch.full_like(chosen, float("nan"))
    return {name: torch.where(present, value, missing) for name, value in values.items()}
