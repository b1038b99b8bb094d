"""Hidden states of a batch to the token statistics of its views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.backbones import Backbone, Context, Packed
from mmalign.forward.batch import Batch
from mmalign.objectives import TokenStats


def response_hidden(backbone: Backbone, batch: Batch, blanks: Sequence[Context] = ()) -> Tensor:
    """Run tower and language model once over the batch.

    Args:
        blanks: what the tower has to see besides; see `blanks_for`.

    Returns:
        The hidden states that predict response tokens, response after response. Shape: (batch.mask.sum(), H).
    """
    features = backbone.media_features([*batch.contexts, *blanks])
    features, unseen = features[: len(batch.contexts)], features[len(batch.contexts) :]
    if batch.rows:
        mask = Packed.of(batch.branch, batch.rows, batch.read)
    else:
        mask = backbone.masks(batch.input_ids, batch.branch, batch.order, whole=batch.branches)
    hidden = backbone.run(batch.input_ids, features, mask, batch.positions, unseen=unseen).last_hidden_state
    return _at_responses(hidden, batch)


def _at_responses(values: Tensor, batch: Batch) -> Tensor:
    """What predicts the response tokens, response after response. Shape: (R, T, ...) -> (batch.mask.sum(), ...)."""
    return values.flatten(0, 1)[batch.source[batch.mask.bool()]]


class LayerMeans:
    """What each layer of a language model gives, averaged over the hidden dimension, while it is listened to."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    @contextmanager
    def listen(self, layers: nn.ModuleList) -> Iterator[None]:
        """Inside, a call of the model leaves its layers' means here."""
        self.found = []
        hooks = [layer.register_forward_hook(self._add) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def at_responses(self, batch: Batch) -> Tensor:
        """Those that predict response tokens, by layer. Shape: (batch.mask.sum(), D)."""
        return _at_responses(torch.stack(self.found, dim=-1), batch)

    def _add(self, _: nn.Module, __: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        self.found.append(states.detach().float().mean(-1))


def blanks_for(backbone: Backbone, batch: Batch) -> list[Context]:
    """What tower and projector have to see though the batch has nothing of its kind, if they have to.

    Other ranks may have pictures or clips, and wait for this one's share of the weights. And a weight without any
    gradient is left out of the optimiser's step, where one whose gradient is zero goes on by its momentum: which of the
    two happens must not depend on whether another rank, or DeepSpeed, is there.
    """
    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    needed = several or (torch.is_grad_enabled() and backbone.sight_trains)
    return backbone.blanks(batch.contexts) if needed else []


def by_view(batch: Batch, scores: dict[str, Tensor]) -> dict[str, TokenStats]:
    """Scores of response tokens, (N,) each or (N, D), as the statistics of each view."""
    rows = {name: _laid(values, batch.mask.bool()) for name, values in scores.items()}
    found = {}
    for view, index in batch.views.items():
        have, pick = (index >= 0).unsqueeze(-1), index.clamp(min=0)
        tokenwise = {name: _where(have, values[pick]) for name, values in rows.items()}
        if view in batch.prompts:
            place = batch.prompts[view]
            tokenwise["prompt"] = _where((place >= 0).unsqueeze(-1), rows["logps"][place.clamp(min=0)])
        found[view] = TokenStats(
            mask=torch.where(have, batch.mask[pick].to(rows["logps"].dtype), 0),
            present=batch.present(view),
            spans=torch.where(have, batch.spans[pick], 0),
            **tokenwise,
        )
    return found


def _laid(values: Tensor, inside: Tensor) -> Tensor:
    """Shape: (N, ...), inside (L, T) -> (L, T, ...), zeros outside."""
    more = values.shape[1:]
    places = inside.view(*inside.shape, *[1] * len(more)).expand(*inside.shape, *more)
    return values.new_zeros(places.shape).masked_scatter(places, values)


def _where(have: Tensor, values: Tensor) -> Tensor:
    return torch.where(have if values.dim() == have.dim() else have.unsqueeze(-1), values, 0)
