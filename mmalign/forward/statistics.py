"""Hidden states of a batch to the token statistics of its views."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.backbones import Backbone, Packed
from mmalign.forward.batch import Batch
from mmalign.objectives import TokenStats


def response_hidden(backbone: Backbone, batch: Batch) -> Tensor:
    """Run tower and language model once over the batch.

    Returns:
        The hidden states that predict response tokens, response after response. Shape: (batch.mask.sum(), H).
    """
    features = backbone.image_features(batch.contexts)
    unseen = backbone.image_features([backbone.blank])[0] if not any(features) and _must_look(backbone) else None
    if batch.rows:
        mask = Packed.of(batch.branch, batch.rows, batch.read)
    else:
        mask = backbone.masks(batch.input_ids, batch.branch, batch.order, whole=batch.branches)
    hidden = backbone.run(batch.input_ids, features, mask, batch.positions, unseen=unseen).last_hidden_state
    return hidden.flatten(0, 1)[batch.source[batch.mask.bool()]]


def _must_look(backbone: Backbone) -> bool:
    """Whether tower and projector have to run though there is nothing to see.

    Other ranks may have pictures, and wait for this one's share of the weights. And a weight without any gradient is
    left out of the optimiser's step, where one whose gradient is zero goes on by its momentum: which of the two happens
    must not depend on whether another rank, or DeepSpeed, is there.
    """
    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return several or (torch.is_grad_enabled() and backbone.sight_trains)


def by_view(batch: Batch, scores: dict[str, Tensor]) -> dict[str, TokenStats]:
    """Scores of response tokens, (N,) each, as the statistics of each view."""
    inside = batch.mask.bool()
    rows = {name: values.new_zeros(inside.shape).masked_scatter(inside, values) for name, values in scores.items()}
    found = {}
    for view, index in batch.views.items():
        have, pick = (index >= 0).unsqueeze(-1), index.clamp(min=0)
        found[view] = TokenStats(
            mask=torch.where(have, batch.mask[pick].to(rows["logps"].dtype), 0),
            present=batch.present(view),
            spans=torch.where(have, batch.spans[pick], 0),
            **{name: torch.where(have, values[pick], 0) for name, values in rows.items()},
        )
    return found
