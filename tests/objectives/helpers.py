"""Statistics to feed objectives with."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives import TokenStats


def stats(logps: Tensor, lengths: list[int] | None = None, present: list[bool] | None = None) -> TokenStats:
    """Statistics of a view; ``logps`` beyond each row's length are masked out. Shape: (B, T)."""
    lengths = lengths or [logps.shape[1]] * len(logps)
    mask = (torch.arange(logps.shape[1])[None] < torch.tensor(lengths)[:, None]).to(logps.dtype)
    return TokenStats(logps * mask, mask, torch.tensor(present or [True] * len(logps)))


def random_views(names: tuple[str, ...], seed: int, batch: int = 4, tokens: int = 6) -> dict[str, TokenStats]:
    """Log-probabilities as a model would give them, in float64, of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)
    views = {}
    for name in names:
        logps = -5 * torch.rand(batch, tokens, generator=generator, dtype=torch.float64)
        views[name] = stats(logps.requires_grad_(), [tokens - i % 3 for i in range(batch)])
    return views


def numbers(batch: int) -> dict[str, Tensor]:
    nothing = torch.full((batch,), float("nan"), dtype=torch.float64)
    return {
        "weight": torch.ones(batch, dtype=torch.float64),
        "strength": nothing,
        "margin": nothing,
        "difficulty": nothing,
    }
