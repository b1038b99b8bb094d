"""Training: one trainer for every objective, on transformers.Trainer and DeepSpeed.

`main` is what ``mmalign train NAME`` and the scripts in ``train/`` call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Train with the objective ``name``; the door of ``deepspeed train/NAME.py`` and ``mmalign train NAME``.

    Args:
        name: an objective's file name, or ``path/to/my_loss.py:MyLoss``.
        arguments: the command line, ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 2 for input that cannot be used.
    """
    from mmalign.records import InputError
    from mmalign.training.session import train

    try:
        train(name, arguments)
    except InputError as error:
        print(f"mmalign train {name}: {error}", file=sys.stderr)
        return 2
    return 0
