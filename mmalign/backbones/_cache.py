"""A cache of keys and values that has room for what is still to be written.

transformers' own is put together anew for every token: with long prompts and small steps most of a step's time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Tokens that there is room for, whenever there is none left."""


class RoomyLayer(DynamicLayer):
    """As its parent, but ``keys`` and ``values`` are the beginnings of larger tensors, which are filled in place."""

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add tokens; gives all of them. Shape: (R, heads, T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, added = self.get_seq_length(), (key_states, value_states)
        stop = start + key_states.shape[-2]
        if self.room is None or stop > self.room[0].shape[-2]:
            held = (self.keys, self.values)
            self.room = tuple(_larger(old, new, start, stop + ROOM) for old, new in zip(held, added, strict=True))
        for room, new in zip(self.room, added, strict=True):
            room[..., start:stop, :] = new
        self.keys, self.values = (room[..., :stop, :] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these numbers, each as often as it is named."""
        super().batch_select_indices(indices)
        self.room = None


def _larger(old: Tensor, new: Tensor, length: int, size: int) -> Tensor:
    room = new.new_empty(*new.shape[:-2], size, new.shape[-1])
    if length:
        room[..., :length, :] = old
    return room


def roomy_cache() -> DynamicCache:
    """An empty cache, for models whose layers all look at everything."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache
