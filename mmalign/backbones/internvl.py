"""InternVL 2.5 and 3: tiles, each of 256 tokens.

https://huggingface.co/docs/transformers/model_doc/internvl
"""

from __future__ import annotations

from mmalign.backbones._backbone import Backbone


class InternVL(Backbone):
    """Only the order of its tiles differs."""

    whole_view = -1  # after the tiles
