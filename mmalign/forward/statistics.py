"""Hidden states of a batch to the token statistics of its views."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.backbones import Backbone
from mmalign.forward.batch import Batch
from mmalign.forward.vocabulary import Scores
from mmalign.objectives import TokenStats


def response_hidden(backbone: Backbone, batch: Batch) -> Tensor:
    """Run tower and language model once over the batch.

    Returns:
        The hidden states that predict response tokens, response after response. Shape: (batch.mask.sum(), H).
    """
    features = backbone.image_features(batch.contexts)
    mask = backbone.masks(batch.input_ids, batch.branch, batch.order, whole=batch.branches)
    hidden = backbone.run(batch.input_ids, features, mask, batch.positions).last_hidden_state
    return hidden.flatten(0, 1)[batch.source[batch.mask.bool()]]


def by_view(batch: Batch, scores: Scores) -> dict[str, TokenStats]:
    """Scores of response tokens, (N,) each, as the statistics of each view."""
    inside = batch.mask.bool()

    def rows(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.new_zeros(inside.shape).masked_scatter(inside, values)

    logps, kl, entropy = rows(scores.logps), rows(scores.kl), rows(scores.entropy)
    found = {}
    for view, index in batch.views.items():
        have, pick = (index >= 0).unsqueeze(-1), index.clamp(min=0)
        found[view] = TokenStats(
            logps=torch.where(have, logps[pick], 0),
            mask=torch.where(have, batch.mask[pick].to(logps.dtype), 0),
            present=batch.present(view),
            kl=None if kl is None else torch.where(have, kl[pick], 0),
            spans=torch.where(have, batch.spans[pick], 0),
            entropy=None if entropy is None else torch.where(have, entropy[pick], 0),
        )
    return found
