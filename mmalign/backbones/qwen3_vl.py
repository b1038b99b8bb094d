"""Qwen3-VL: as Qwen2.5-VL, and features of inner layers of the tower are added in the first layers (deepstack); the
frames of a clip stand behind their times.

https://huggingface.co/docs/transformers/model_doc/qwen3_vl
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.backbones._backbone import Features
from mmalign.backbones._mrope import MRope


class Qwen3VL(MRope):
    """Positions and deepstack features differ."""

    least_frames = 2  # its video processor refuses fewer than lie in a patch

    def layer_inputs(self, is_media: Tensor, features: Sequence[Features]) -> dict[str, Any]:
        """What is added to the hidden states of media tokens after each of the first layers."""
        if not features:
            return {}
        layers = zip(*(each.deepstack for each in features), strict=True)
        return {"visual_pos_masks": is_media, "deepstack_visual_embeds": [torch.cat(layer) for layer in layers]}
