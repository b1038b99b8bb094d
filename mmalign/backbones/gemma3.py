"""Gemma 3: tokens of one image see each other both ways, and five layers of six see only a window.

https://huggingface.co/docs/transformers/model_doc/gemma3
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmalign.backbones._backbone import Backbone


class Gemma3(Backbone):
    """The masks differ."""

    def masks(self, input_ids: Tensor, branch: Tensor, order: Tensor, *, whole: bool) -> Tensor | dict[str, Tensor]:
        """As `Backbone.masks`, always of every pair: a plain causal mask would hide an image's end from its start."""
        return super().masks(input_ids, branch, order, whole=True)

    def both_ways(self, input_ids: Tensor, branch: Tensor) -> Tensor:
        """Tokens of one image, which stand in one run, see each other. Shape: (R, T, T)."""
        is_image = input_ids == self.image_token_id
        starts = is_image & ~pad(is_image, (1, 0))[:, :-1]
        image = torch.where(is_image, starts.cumsum(-1), -1)
        same = (image[:, None, :] == image[:, :, None]) & is_image[:, None, :]
        return same & (branch >= 0)[:, None, :]
