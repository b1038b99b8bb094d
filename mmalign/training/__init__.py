"""Training: one trainer for every objective, on transformers.Trainer and DeepSpeed.

`main` is what ``mmalign train NAME`` and the scripts in ``train/`` call.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from pathlib import Path


def main(name: str | None = None, arguments: Sequence[str] | None = None, *, config: Path | None = None) -> int:
    """Train with the objective ``name``; the door of ``deepspeed train/NAME.py`` and ``mmalign train NAME``.

    Args:
        name: an objective's file name, or ``path/to/my_loss.py:MyLoss``; without, ``--objective NAME`` says it.
        arguments: the command line, ``sys.argv[1:]`` by default.
        config: what ``--config`` is where the command line does not say it.

    Returns:
        The exit status: 2 for input that cannot be used.
    """
    from mmalign.flags import config_of, guarded

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if config is not None and config_of(arguments) is None:
        arguments = ["--config", str(config), *arguments]
    return guarded(f"mmalign train {name or ''}".rstrip(), lambda: _run(name, arguments))


def _run(name: str | None, arguments: list[str]) -> int:
    from mmalign.training import chain, session, stages

    if name is None:
        name, arguments = _objective(arguments)
    (chain if stages.asked(arguments) else session).train(name, arguments)
    return 0


def _objective(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The value of ``--objective``, and the other arguments.

    Raises:
        InputError: it is not said.
    """
    from mmalign.records import InputError

    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--objective")
    try:
        found, rest = parser.parse_known_args(list(arguments))
    except ArgumentError as error:
        raise InputError(str(error)) from None
    if not found.objective:
        raise InputError("--objective is missing: a name, such as dpo, or path/to/my_loss.py:MyLoss")
    return found.objective, rest
