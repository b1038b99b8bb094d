"""LLaVA-OneVision: tiles of a single picture, and one view each of several.

https://huggingface.co/docs/transformers/model_doc/llava_onevision
"""

from __future__ import annotations

from mmalign.backbones._backbone import Backbone


class LlavaOnevision(Backbone):
    """Nothing differs."""
