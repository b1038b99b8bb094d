"""Positions with three axes, as in the Qwen-VL families: time, height and width."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.backbones._backbone import Backbone


class MRope(Backbone):
    """A family whose image tokens are placed by row and column; text goes on after the largest of them."""

    def prompt_positions(self, input_ids: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Positions of a prompt's tokens on the three axes. Shape: (3, P)."""
        if "image_grid_thw" not in inputs:
            return torch.arange(input_ids.shape[1]).expand(3, -1)
        positions, _ = self.hf_model.model.get_rope_index(
            input_ids, mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        return positions[:, 0]
