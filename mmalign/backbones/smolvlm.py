"""SmolVLM: tiles between markers of row and column, few tokens each; frames of a clip stand behind their times.

https://huggingface.co/docs/transformers/model_doc/smolvlm
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.backbones._backbone import Backbone
from mmalign.backbones._written import Part


class SmolVLM(Backbone):
    """The order of its tiles differs; its media have an axis more, and the tiles of a prompt lie on the second."""

    knows_clips = True
    whole_view = -1  # after the tiles

    def media_of(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        """Tiles and frames of a prompt, one after the other. Shape: (1, tiles, ...)."""
        inputs = [part.inputs for part in parts]
        return {key: torch.cat([each[key] for each in inputs], dim=1) for key in inputs[0]}
