"""Statistics to feed objectives with."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives import TokenStats


def stats(
    logps: Tensor,
    lengths: list[int] | None = None,
    present: list[bool] | None = None,
    *,
    kl: Tensor | None = None,
    spans: Tensor | None = None,
) -> TokenStats:
    """Statistics of a view; values beyond each row's length are masked out. Shape: (B, T) each."""
    lengths = lengths or [logps.shape[1]] * len(logps)
    mask = (torch.arange(logps.shape[1])[None] < torch.tensor(lengths)[:, None]).to(logps.dtype)
    return TokenStats(
        logps * mask,
        mask,
        torch.tensor(present or [True] * len(logps)),
        kl=None if kl is None else kl * mask,
        spans=None if spans is None else spans * mask,
    )


def random_views(names: tuple[str, ...], seed: int, batch: int = 4, tokens: int = 6) -> dict[str, TokenStats]:
    """What a model would give, in float64: log-probabilities of uneven lengths, divergences, spans."""
    generator = torch.Generator().manual_seed(seed)
    views = {}
    for name in names:
        logps, kl, spans = torch.rand(3, batch, tokens, generator=generator, dtype=torch.float64)
        lengths = [tokens - i % 3 for i in range(batch)]
        views[name] = stats(
            (-5 * logps).requires_grad_(), lengths, kl=kl.requires_grad_(), spans=(spans > 0.5).double()
        )
    return views


def numbers(batch: int) -> dict[str, Tensor]:
    nothing = torch.full((batch,), float("nan"), dtype=torch.float64)
    return {
        "weight": torch.ones(batch, dtype=torch.float64),
        "strength": nothing,
        "margin": nothing,
        "difficulty": nothing,
    }
