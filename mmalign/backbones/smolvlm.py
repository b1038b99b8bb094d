"""SmolVLM: tiles between markers of row and column, few tokens each.

https://huggingface.co/docs/transformers/model_doc/smolvlm
"""

from __future__ import annotations

from mmalign.backbones._backbone import Backbone


class SmolVLM(Backbone):
    """Only the order of its tiles differs."""

    whole_view = -1  # after the tiles
