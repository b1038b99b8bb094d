"""Positions with three axes, as in the Qwen-VL families: time, height and width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmalign.backbones._backbone import Backbone


class MRope(Backbone):
    """A family whose image tokens are placed by row and column; text goes on after the largest of them.

    Its projector is part of its tower.
    """

    def prompt_positions(self, input_ids: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Positions of a prompt's tokens on the three axes. Shape: (3, P)."""
        if "image_grid_thw" not in inputs:
            return torch.arange(input_ids.shape[1]).expand(3, -1)
        positions, _ = self.hf_model.model.get_rope_index(
            input_ids, mm_token_type_ids=inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        return positions[:, 0]

    @property
    def tower_parts(self) -> list[nn.Module]:
        """The tower without its mergers, which are this family's projector."""
        return [self.tower.patch_embed, *self.tower.blocks]
