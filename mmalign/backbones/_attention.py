"""Attention over rows that stand one after the other in one sequence, without padding between them.

A row is a prompt and its responses. The prompt, and a single response after it, are causal: the fast kernels need no
mask for that, and do not compute what lies above the diagonal. Only where several responses follow does a mask keep
them apart, and it has as many lines as these have tokens.

Legend of shapes: M tokens of all rows, Q tokens of a row that need a mask, T tokens of that row, A heads, D their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed_sdpa"
"""What transformers knows it by: ``attn_implementation``."""


class Row(NamedTuple):
    """Where a row stands: its tokens up to ``causal`` see all of the row before them, those up to ``stop`` do not."""

    start: int
    causal: int
    stop: int


@dataclass(frozen=True)
class Packed:
    """Rows in one sequence.

    Attributes:
        rows: in order, without gaps.
        seen: for each row which of its tokens the last of them see, None where all of it is causal. Shape: (Q, T).
    """

    rows: Sequence[Row]
    seen: Sequence[Tensor | None]

    def inputs(self) -> dict[str, Any]:
        """Arguments of a language model whose attention is `attend`."""
        device = next((seen.device for seen in self.seen if seen is not None), None)
        # A mask of four dimensions is taken as it is; without one, transformers would look for rows of its own.
        return {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), "packed": self}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Packed | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, row by row if rows are given, as transformers' own otherwise.

    Shape: query (1, A, M, D), key and value the same with as many heads as they have; returns (1, M, A, D).
    """
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    options["is_causal"] = True  # where there is no mask
    found = []
    for row, seen in zip(packed.rows, packed.seen, strict=True):
        for queries, keys, mask in (
            (slice(row.start, row.causal), slice(row.start, row.causal), None),
            (slice(row.causal, row.stop), slice(row.start, row.stop), seen),
        ):
            if queries.start < queries.stop:
                parts = query[:, :, queries], key[:, :, keys], value[:, :, keys]
                mask = mask[None, None] if mask is not None else None
                found.append(sdpa_attention_forward(module, *parts, mask, **options)[0])
    return torch.cat(found, dim=1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
