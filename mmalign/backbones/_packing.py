"""Rows that stand one after the other in one sequence, without padding between them.

A row is a prompt and its responses. The prompt, and a single response after it, are causal: the fast kernels need no
mask for that, and do not compute what lies above the diagonal. Only where several responses follow does a mask keep
them apart, and it has as many lines as these have tokens. And of the last layer only some tokens are read: it does the
greater part of its work, that of its MLP, for them alone.

Legend of shapes: M tokens of all rows, W tokens that are read, Q tokens of a row with a mask, T tokens of that row,
A heads, D their size, H hidden size.
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

    @property
    def sizes(self) -> list[int]:
        """How many tokens are causal, and how many are not if any are."""
        return [size for size in (self.causal - self.start, self.stop - self.causal) if size]


@dataclass(frozen=True)
class Packed:
    """Rows in one sequence.

    Attributes:
        rows: in order, without gaps.
        read: tokens whose last hidden state is read, each once, in order; what the others' is, is left open.
            Shape: (W,).
        seen: for each row which of its tokens the last of them see, None where all of it is causal. Shape: (Q, T).
    """

    rows: Sequence[Row]
    read: Tensor
    seen: Sequence[Tensor | None]

    @classmethod
    def of(cls, branch: Tensor, rows: Sequence[Row], read: Tensor) -> Packed:
        """From the layout of `mmalign.forward.Batch`. Shape: branch (1, M), read (W,)."""
        seen = []
        for row in rows:
            last = torch.arange(row.causal, row.stop, device=branch.device) - row.start
            seen.append(visible(branch[:, row.start : row.stop], last)[0] if row.causal < row.stop else None)
        return cls(rows, read, seen)

    def inputs(self) -> dict[str, Any]:
        """Arguments of a language model whose attention is `attend`."""
        # A mask of four dimensions is taken as it is; without one, transformers would look for rows of its own.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.read.device)
        return {"attention_mask": mask, "packed": self}


def visible(branch: Tensor, places: Tensor) -> Tensor:
    """What the tokens at ``places`` see: the prompt and their own branch, up to themselves.

    Shape: branch (R, T), places (Q,) -> (R, Q, T).
    """
    key, query = branch[:, None, :], branch[:, places, None]
    every = torch.arange(branch.shape[1], device=branch.device)
    before, itself = every <= places[:, None], every == places[:, None]  # a row of nothing would be NaN
    return before & ((key == 0) | (key == query) & (key > 0)) | itself


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

    def answer(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        mask = None if seen is None else seen[None, None]
        return sdpa_attention_forward(module, queries, keys, values, mask, **{**options, "is_causal": seen is None})[0]

    # Split, and not sliced: the gradients of slices would be as wide as all rows, and added up.
    lengths = [sum(row.sizes) for row in packed.rows]
    keys, values = _split(key, lengths), _split(value, lengths)
    queries = iter(_split(query, [size for row in packed.rows for size in row.sizes]))
    found = []
    for row, own_keys, own_values, seen in zip(packed.rows, keys, values, packed.seen, strict=True):
        causal = row.sizes[0]
        found.append(answer(next(queries), own_keys[:, :, :causal], own_values[:, :, :causal], None))
        if seen is not None:
            found.append(answer(next(queries), own_keys, own_values, seen))
    return torch.cat(found, dim=1), None


def _split(tensor: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return tensor.split(sizes, dim=2) if len(sizes) > 1 else [tensor]


def narrow(layer: nn.Module) -> None:
    """From now on, the MLP of this layer, the last, runs for what is read alone, wherever rows are packed.

    Hooks do it, and not another forward: a copy of the model has them too, and each is told whose it is.
    """
    if not hasattr(layer.mlp, "packed"):
        layer.mlp.packed = None
        layer.self_attn.beside = (layer.mlp,)  # in a tuple, so that it is not taken for a part of the attention
        layer.self_attn.register_forward_pre_hook(_hand_on, with_kwargs=True)
        layer.mlp.register_forward_pre_hook(_pick)
        layer.mlp.register_forward_hook(_put_back)


def _hand_on(attention: nn.Module, _: Any, options: dict[str, Any]) -> None:
    """The attention is told of the rows, and runs before its MLP, also where a layer is computed again."""
    attention.beside[0].packed = options.get("packed")


def _pick(mlp: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
    """Shape: (1, M, H) -> (1, W, H)."""
    return None if mlp.packed is None else (arguments[0][:, mlp.packed.read],)


def _put_back(mlp: nn.Module, _: Any, output: Tensor) -> Tensor | None:
    """Shape: (1, W, H) -> (1, M, H)."""
    packed, mlp.packed = mlp.packed, None
    if packed is None:
        return None
    return output.new_zeros(1, packed.rows[-1].stop, output.shape[-1]).index_copy(1, packed.read, output)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
