"""LLaVA-OneVision: tiles of a single picture, one view each of several; frames of a clip at a quarter of the tokens.

https://huggingface.co/docs/transformers/model_doc/llava_onevision
"""

from __future__ import annotations

from mmalign.backbones._pooled import PooledClips


class LlavaOnevision(PooledClips):
    """Nothing else differs."""
