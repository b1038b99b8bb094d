"""Training: one trainer for every objective, on transformers.Trainer and DeepSpeed.

`main` is what ``mmalign train NAME`` and the scripts in ``train/`` call.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Train with the objective ``name``; the door of ``deepspeed train/NAME.py`` and ``mmalign train NAME``.

    Args:
        name: an objective's file name, or ``path/to/my_loss.py:MyLoss``.
        arguments: the command line, ``sys.argv[1:]`` by default.

    Returns:
        The process's exit status.
    """
    from mmalign.records import InputError
    from mmalign.training.session import train

    try:
        train(name, arguments)
    except InputError as error:
        raise SystemExit(f"mmalign train {name}: {error}") from error
    return 0
