"""Qwen2.5-VL: a tower of any resolution, and positions in time, height and width.

https://huggingface.co/docs/transformers/model_doc/qwen2_5_vl
"""

from __future__ import annotations

from mmalign.backbones._mrope import MRope


class Qwen2_5VL(MRope):
    """Only the positions differ."""
