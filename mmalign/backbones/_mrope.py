"""Positions with three axes, as in the Qwen-VL families: time, height and width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmalign.backbones._backbone import Backbone
from mmalign.media.noise import Noise


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

    def pixel_noise(self, noise: Noise, pixels: Tensor) -> Tensor:
        """A patch holds a still picture several times, one behind the other in time: noised once, then repeated."""
        vision = self.hf_model.config.vision_config
        shape = len(pixels), -1, vision.temporal_patch_size, vision.patch_size**2  # patches, colours, times, places
        patches = pixels.view(shape)
        once = torch.from_numpy(noise.draw((*patches.shape[:2], 1, patches.shape[3])))
        return once.expand_as(patches).reshape(pixels.shape)

    @property
    def tower_parts(self) -> list[nn.Module]:
        """The tower without its mergers, which are this family's projector."""
        return [self.tower.patch_embed, *self.tower.blocks]
