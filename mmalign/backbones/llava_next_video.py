"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT; frames of a clip at a quarter of the tokens, without tiles.

https://huggingface.co/docs/transformers/model_doc/llava_next_video
"""

from __future__ import annotations

from mmalign.backbones._pooled import PooledClips


class LlavaNextVideo(PooledClips):
    """Nothing else differs."""
