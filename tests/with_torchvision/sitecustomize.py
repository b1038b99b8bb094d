"""Python runs this by itself where this folder is on PYTHONPATH: it lets torchvision be imported beside torch for CPUs.

The wheels of torchvision on PyPI for Linux are made for CUDA. Without it their compiled part cannot be loaded, and then
the import fails over operators that are not there. What video processors use of torchvision needs none of them, so they
are declared here, with nothing behind them. Nothing happens until torchvision is imported.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _Declare:
    """Asked before torchvision is found, once."""

    @classmethod
    def find_spec(cls, name: str, *_: Any) -> None:
        """Nothing is found here: the next one that is asked finds it."""
        if name != "torchvision":
            return
        sys.meta_path.remove(cls)
        found = PathFinder.find_spec(name)
        if found is not None:
            _declare(Path(found.origin).parent)


def _declare(folder: Path) -> None:
    import torch

    try:
        for compiled in folder.glob("_C*.so"):
            torch.ops.load_library(str(compiled))
    except OSError:
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", _SIGNATURE)


sys.meta_path.insert(0, _Declare)
