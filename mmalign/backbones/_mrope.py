"""Positions with three axes, as in the Qwen-VL families: time, height and width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mmalign.backbones._backbone import Backbone, concatenated
from mmalign.backbones._written import Part
from mmalign.media.noise import Noise

_IMAGE, _VIDEO = 1, 2
"""What ``get_rope_index`` calls tokens of pictures and of clips."""


class MRope(Backbone):
    """A family whose media tokens are placed by time, row and column.

    Pictures and frames go through its tower in one call, cut into patches. Its projector is part of its tower.
    """

    knows_clips = True

    def media_of(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        """Patches and grids, of pictures and clips alike."""
        names = ("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")
        found = [[part.inputs[name] for name in names[part.kind == "video"]] for part in parts]
        return {name: concatenated(values) for name, values in zip(names[0], zip(*found, strict=True), strict=True)}

    def positions(self, input_ids: Tensor, parts: Sequence[Part]) -> Tensor:
        """Positions of a prompt's tokens and of one that follows, as transformers counts them. Shape: (3, P + 1)."""
        if not parts:
            return super().positions(input_ids, parts).expand(3, -1)
        config = self.hf_model.config
        kinds = _IMAGE * (input_ids == config.image_token_id) + _VIDEO * (input_ids == config.video_token_id)
        longer = pad(input_ids, (0, 1), value=self.pad_token_id)[None]
        seconds = [second for part in parts for second in part.inputs.get("second_per_grid_ts", ())]
        positions, _ = self.hf_model.model.get_rope_index(
            longer,
            mm_token_type_ids=pad(kinds, (0, 1))[None],
            image_grid_thw=_grids(parts, "image_grid_thw"),
            video_grid_thw=_grids(parts, "video_grid_thw"),
            second_per_grid_ts=seconds or None,
        )
        return positions[:, 0]

    def pixel_noise(self, noise: Noise, pixels: Tensor) -> Tensor:
        """A patch holds a still picture several times, one behind the other in time: noised once, then repeated.

        Where it holds frames that differ, each has noise of its own.
        """
        vision = self.hf_model.config.vision_config
        shape = len(pixels), -1, vision.temporal_patch_size, vision.patch_size**2  # patches, colours, times, places
        patches = pixels.view(shape)
        once = torch.from_numpy(noise.draw((*patches.shape[:2], 1, patches.shape[3]))).expand_as(patches)
        still = (patches == patches[:, :, :1]).flatten(1).all(1)[:, None, None, None]
        drawn = once if still.all() else torch.where(still, once, torch.from_numpy(noise.draw(patches.shape)))
        return drawn.reshape(pixels.shape)

    @property
    def tower_parts(self) -> list[nn.Module]:
        """The tower without its mergers, which are this family's projector."""
        return [self.tower.patch_embed, *self.tower.blocks]


def _grids(parts: Sequence[Part], name: str) -> Tensor | None:
    found = [part.inputs[name] for part in parts if name in part.inputs]
    return torch.cat(found) if found else None
