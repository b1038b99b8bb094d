"""LLaVA-1.5 and what is built like it: one tower, one projector, positions in order.

https://huggingface.co/docs/transformers/model_doc/llava
"""

from __future__ import annotations

from mmalign.backbones._backbone import Backbone


class Llava(Backbone):
    """The family that `Backbone` is written after: nothing differs."""
