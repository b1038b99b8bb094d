"""LLaVA-NeXT (1.6): tiles of a picture beside a small view of all of it.

https://huggingface.co/docs/transformers/model_doc/llava_next
"""

from __future__ import annotations

from mmalign.backbones._backbone import Backbone


class LlavaNext(Backbone):
    """Nothing differs."""
