"""Command lines made of dataclasses, with a YAML file under the flags.

Every field of every dataclass is a flag, ``--config FILE.yaml`` gives flags that the command line overrides, and
whatever is wrong is an InputError of one line::

    parser = flags.parser([ModelOptions, DataOptions], prog="mmalign train dpo", description="...")
    model, data = flags.parse(parser, ["--config", "dpo.yaml", "--model", "llava-hf/llava-1.5-7b-hf"])
"""

from __future__ import annotations

import difflib
import json
import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from mmalign.records import InputError

if TYPE_CHECKING:
    from transformers import HfArgumentParser


class _Help(ArgumentDefaultsHelpFormatter):
    """Says the default where there is one."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parser(
    dataclasses: Iterable[type],
    *,
    prog: str,
    usage: str | None = None,
    description: str | None = None,
    epilog: str | None = None,
) -> HfArgumentParser:
    """A parser with a flag for every field of ``dataclasses``, ``--config``, and no abbreviations.

    ``--local_rank``, which the deepspeed launcher appends, is read and left alone: the environment says the same.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise InputError(f"{message} (--help lists all flags)")

    made = Parser(
        list(dataclasses), prog=prog, usage=usage, description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=_Help,
    )  # fmt: skip
    for action in made._actions:
        if action.const is False:  # what transformers adds to a flag that is on, with the same words
            action.help, action.default = f"Turns --{action.dest} off.", None
    made.add_argument("--config", metavar="FILE.yaml", help="Flags as YAML; those on the command line win.")
    if "--local_rank" not in made._option_string_actions:  # TrainingArguments has it in some transformers
        made.add_argument("--local_rank", "--local-rank", help="Appended by the deepspeed launcher; not used.")
    return made


def parse(parser: HfArgumentParser, arguments: Sequence[str]) -> tuple[Any, ...]:
    """The instances of the parser's dataclasses, from ``arguments`` and the YAML file that they may name.

    Raises:
        InputError: a flag or key that there is not (with the likeliest that there is), a value that does not
            fit, a required flag that is missing, or a file that is no YAML mapping.
    """
    known = {action.dest for action in parser._actions}
    arguments = [*_from_config(config_of(arguments), known), *arguments]
    *options, _, unknown = parser.parse_args_into_dataclasses(
        args=arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        name = unknown[0].split("=")[0].strip("-").replace("-", "_")
        raise InputError(f"no such flag: {unknown[0]}{suggestion(name, known)}")
    return tuple(options)


def guarded(prog: str, work: Callable[[], int]) -> int:
    """The exit status of ``work``: 2, and one line, for what the user can mend, a file that cannot be written too."""
    try:
        return work()
    except InputError as error:
        print(f"{prog}: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename is None:  # of no file: nobody knows what it is about without the stack
            raise
        print(f"{prog}: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` for the name in ``known`` that is closest to ``name``."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; see --help"


def config_of(arguments: Sequence[str]) -> Path | None:
    """The file that ``--config`` names."""
    first = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", type=Path, nargs="?")  # without a value: for the real parser to complain of
    return first.parse_known_args(list(arguments))[0].config


def read_config(config: Path) -> dict[str, Any]:
    """The mapping of a YAML file.

    Raises:
        InputError: it cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=config) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not YAML: {error}", file=config) from None
    if values is not None and not isinstance(values, dict):
        raise InputError("expected one mapping of flags to values", file=config)
    return {str(key): value for key, value in (values or {}).items()}


def _from_config(config: Path | None, known: set[str]) -> list[str]:
    """A YAML file as flags, so that both are read by the same rules."""
    spelled: list[str] = []
    for key, value in (read_config(config) if config else {}).items():
        if key not in known or key == "config":
            raise InputError(f"no such flag{suggestion(key, known)}", file=config, field=key)
        spelled += spell(key, value)
    return spelled


def spell(key: str, value: Any) -> list[str]:
    """One flag as it stands on a command line; ``null`` leaves the default as it is."""
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={json.dumps(value) if isinstance(value, dict | bool) else value}"]
