"""Hidden states to token statistics, without the vocabulary ever standing in memory for all tokens.

Legend of shapes: N tokens, C tokens of a tile, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Hidden states to logits: (C, H) -> (C, V)."""

TILE = 64 * 2**20
"""Numbers in a tile of logits, 256 MiB in float32: (C, V) has about as many."""


@dataclass(frozen=True)
class Scores:
    """What is known of each token. Shape of each: (N,).

    Attributes:
        logps: log-probability of the target.
        entropy: of the whole distribution, in nats; without gradient.
        kl: KL(other || own) over the whole vocabulary, where another model was given.
    """

    logps: Tensor
    entropy: Tensor | None = None
    kl: Tensor | None = None


@dataclass(frozen=True)
class Other:
    """Another model's view of the same tokens, to measure the distance to.

    Attributes:
        hidden: its last hidden states. Shape: (N, H').
        head: its projection.
    """

    hidden: Tensor
    head: Head


def score_tokens(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    entropy: bool = False,
    other: Other | None = None,
    tile: int = TILE,
    vocabulary: int,
) -> Scores:
    """Score tokens in tiles; the backward pass computes each tile's logits again.

    All arithmetic on logits is in float32, whatever the dtype of the model.

    Args:
        hidden: Shape: (N, H).
        targets: Shape: (N,).
        entropy: whether to measure it too.
        other: whether, and to which model, to measure the divergence.
        tile: numbers in a tile of logits.
        vocabulary: V.
    """
    rows = max(1, tile // vocabulary)
    others = other.hidden.split(rows) if other is not None else [None] * -(-len(hidden) // rows)
    other_head = other.head if other is not None else None
    tiles = []
    for own, target, theirs in zip(hidden.split(rows), targets.split(rows), others, strict=True):
        arguments = (own, head, target, entropy, theirs, other_head)
        if torch.is_grad_enabled():  # not reentrant: DeepSpeed reduces a weight twice that two such segments use
            tiles.append(checkpoint(_tile, *arguments, use_reentrant=False))
        else:
            tiles.append(_tile(*arguments))
    logps, entropies, kls = (None if part[0] is None else torch.cat(part) for part in zip(*tiles, strict=True))
    return Scores(logps, entropies, kls)


def _tile(
    hidden: Tensor, head: Head, targets: Tensor, entropy: bool, other: Tensor | None, other_head: Head | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Statistics of one tile of tokens. Shape of each: (C,)."""
    logits = head(hidden).float()
    total = logits.logsumexp(-1)
    logps = logits.gather(-1, targets[:, None])[:, 0] - total
    return (
        logps,
        token_entropy(logits.detach(), total.detach()) if entropy else None,
        token_kl(logits, total, other_head(other).float()) if other is not None else None,
    )


def token_entropy(logits: Tensor, total: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats: log Z - E[logit]. Shape: logits (C, V), total (C,) = log Z; returns (C,)."""
    return total - (logits.softmax(-1) * logits).sum(-1)


def token_kl(logits: Tensor, total: Tensor, other: Tensor) -> Tensor:
    """KL(other || own) of each token, over the whole vocabulary; no gradient flows to the other.

    Shape: logits, other (C, V), total (C,) = logsumexp of logits; returns (C,).
    """
    other = other.detach().log_softmax(-1)
    # Where the other has no probability its log is -inf, and 0 times that would be NaN.
    return torch.where(other.isinf(), 0, other.exp() * (other - logits + total[:, None])).sum(-1)
