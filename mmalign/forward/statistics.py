"""Hidden states to token statistics, with the vocabulary only where responses are.

Legend of shapes: R rows, T tokens of a row, N response tokens of all rows, H hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmalign.backbones import Backbone
from mmalign.forward.batch import Batch
from mmalign.objectives import TokenStats


def view_statistics(backbone: Backbone, batch: Batch) -> dict[str, TokenStats]:
    """Run the model once over all rows of the batch and score every view's response tokens."""
    where, targets, mask = _response_positions(batch)
    hidden = _hidden_states(backbone, batch)
    flat = token_logps(hidden[where], backbone.head, targets)
    logps = flat.new_zeros(mask.shape).masked_scatter(mask, flat)
    spans = _aligned(batch.spans, batch.response, mask)
    return {view: _gather(batch, view, logps, mask.to(logps.dtype), spans) for view in batch.rows}


def token_logps(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Log-probability of each target token, in float32 whatever the model's dtype.

    Shape: hidden (N, H), targets (N,); returns (N,).
    """
    logits = head(hidden).float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def _hidden_states(backbone: Backbone, batch: Batch) -> Tensor:
    """Last hidden states of every row. Shape: (R, T, H)."""
    media = backbone.media_inputs(batch.contexts, batch.context_of)
    contexts = [batch.contexts[row] for row in batch.context_of]
    positions = backbone.positions(batch.input_ids, batch.mask, batch.tokenwise, contexts)
    output = backbone.hf_model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.mask,
        position_ids=positions,
        use_cache=False,
        **batch.tokenwise,
        **media,
    )
    return output.last_hidden_state


def _response_positions(batch: Batch) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Where each response token is predicted (one place before it), which token it is, and the (R, L) mask of
    responses moved to the left edge, L being the longest."""
    row, place = batch.response.nonzero(as_tuple=True)
    lengths = batch.response.sum(-1)
    mask = torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]
    return (row, place - 1), batch.input_ids[row, place], mask


def _aligned(values: Tensor, response: Tensor, mask: Tensor) -> Tensor:
    """Values at response tokens, moved to the left edge. Shape: (R, T) -> (R, L)."""
    moved = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return moved.masked_scatter(mask, values[response.bool()])


def _gather(batch: Batch, view: str, logps: Tensor, mask: Tensor, spans: Tensor) -> TokenStats:
    rows = batch.rows[view]
    have = (rows >= 0).unsqueeze(-1)
    pick = rows.clamp(min=0)
    return TokenStats(
        logps=torch.where(have, logps[pick], 0.0),
        mask=torch.where(have, mask[pick], 0.0),
        present=batch.present(view),
        spans=torch.where(have, spans[pick], 0),
    )
