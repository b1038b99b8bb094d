"""LLaVA-OneVision: tiles of a single picture, one view each of several; frames of a clip at a quarter of the tokens.

https://huggingface.co/docs/transformers/model_doc/llava_onevision
"""

from __future__ import annotations

from torch import Tensor

from mmalign.backbones._pooled import PooledClips


class LlavaOnevision(PooledClips):
    """A clip ends as a line of tiles does."""

    @property
    def clip_end(self) -> Tensor:
        """The token of the model that ends lines. Shape: (1, H)."""
        return self.hf_model.model.image_newline[None]
