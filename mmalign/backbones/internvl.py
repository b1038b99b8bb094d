"""InternVL 2.5 and 3: tiles, each of 256 tokens; a clip is written as its frames, "Frame1: " before the first.

https://huggingface.co/docs/transformers/model_doc/internvl
"""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin

from mmalign.backbones._backbone import Backbone


class InternVL(Backbone):
    """The order of its tiles differs, and what its processor gives."""

    knows_clips = True
    whole_view = -1  # after the tiles

    def process(self, **inputs: Any) -> dict[str, Any]:
        """What all processors do: this one's own call brings media in order, and cannot say where it wrote them."""
        found = dict(ProcessorMixin.__call__(self.processor, **inputs))
        found.pop("num_patches", None)
        if "pixel_values_videos" in found:
            found["pixel_values"] = found.pop("pixel_values_videos").flatten(0, 1)
        return found
