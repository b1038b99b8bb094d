"""The `mmalign` command: one verb for every move. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import mmalign
from mmalign import flags
from mmalign.records import InputError

USAGE = """usage: mmalign VERB ...

Align image and video language models so that they stop saying what is not there.

  demo       the whole story in minutes on a laptop: build pairs, train, evaluate, and a page to look at
  build      make preference records:      mmalign build bdhs --model MODEL --data SOURCES.jsonl --output PAIRS.jsonl
  train      train on them:                mmalign train dpo --model MODEL --data PAIRS.jsonl --output_dir FOLDER
  reward     score responses:              mmalign reward PAIRS.jsonl --scorer judge --model MODEL --output SCORED.jsonl
  predict    answer a benchmark:           mmalign predict pope --model MODEL --data FOLDER --output ANSWERS.jsonl
  score      score the answers:            mmalign score pope --data FOLDER --predictions ANSWERS.jsonl
  index      make pictures searchable:     mmalign index --model MODEL --images FOLDER --output INDEX
  convert    read and write other formats: mmalign convert FILE --from rlaif_v --output PAIRS.jsonl
  validate   check a record file:          mmalign validate PAIRS.jsonl
  inspect    look at it:                   mmalign inspect PAIRS.jsonl --output PAGE.html
  merge      fold an adapter into a model: mmalign merge FOLDER --output MERGED

`mmalign VERB --help` tells more. On several processes: deepspeed --module mmalign.cli train dpo ...
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, 1 for problems found, 2 for input that cannot be used."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    launcher = [a for a in arguments if a.startswith("--local_rank")]  # deepspeed --module puts it first
    arguments = [a for a in arguments if a not in launcher]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    verb, *rest = arguments
    if verb in ("-V", "--version"):
        print(f"mmalign {mmalign.__version__}")
        return 0
    if verb not in VERBS:
        print(f"mmalign: no such verb: {verb}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return flags.guarded(f"mmalign {verb}", lambda: VERBS[verb](rest))
    except BrokenPipeError:  # what was printed is cut off on purpose, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its exit
        return 1


def run() -> None:
    """Entry point of the console script."""
    raise SystemExit(main())


def _named(verb: str, plugins_in: str, room: str, arguments: list[str]) -> int:
    """A verb whose first word is the name of a plugin; the rest goes to the ``main`` of its room."""
    if not arguments or arguments[0] in ("-h", "--help"):
        from mmalign import plugins

        print(f"usage: mmalign {verb} NAME ...\n\nNAME is one of these, or path/to/file.py:Class of your own:\n")
        names = plugins.names(plugins_in)
        width = 2 + max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}{plugins.summary(plugins_in, name)}")
        print(f"\n`mmalign {verb} NAME --help` lists its flags.")
        return 0
    if arguments[0].startswith("-"):
        print(f"mmalign {verb}: NAME comes first (mmalign {verb} lists them), then {arguments[0]}", file=sys.stderr)
        return 2
    return importlib.import_module(room).main(arguments[0], arguments[1:])


def _command(verb: str, module: ModuleType, arguments: list[str]) -> int:
    """A verb whose flags and deed stand in its own module."""
    parser = argparse.ArgumentParser(prog=f"mmalign {verb}", formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    return module.command(parser.parse_args(arguments))


def train(arguments: list[str]) -> int:
    """Train with an objective: the first word, or the value of --objective."""
    if any(argument.partition("=")[0] == "--objective" for argument in arguments):
        from mmalign.training import main

        return main(None, arguments)
    return _named("train", "mmalign.objectives", "mmalign.training", arguments)


def build(arguments: list[str]) -> int:
    """Make preference records."""
    return _named("build", "mmalign.builders", "mmalign.builders", arguments)


def index(arguments: list[str]) -> int:
    """Embed pictures into an index that builders search."""
    from mmalign.retrieval import make

    return make.main(arguments)


def convert(arguments: list[str]) -> int:
    """Bring other projects' preference data into records, or records into their formats."""
    from mmalign.interop import convert

    return _command("convert", convert, arguments)


def validate(arguments: list[str]) -> int:
    """Report every problem of a record file, by line, and what spoils it as a whole."""
    from mmalign.reports import validate

    return _command("validate", validate, arguments)


def inspect(arguments: list[str]) -> int:
    """A page to look at a record file."""
    from mmalign.reports import inspect

    return _command("inspect", inspect, arguments)


def merge(arguments: list[str]) -> int:
    """Fold an adapter into its base model."""
    parser = argparse.ArgumentParser(
        prog="mmalign merge",
        description="Fold a LoRA adapter into its base model: a folder that transformers, vLLM and others load alone.",
        epilog="Example: mmalign merge runs/dpo --output runs/dpo-merged",
    )
    parser.add_argument("adapter", type=Path, help="folder that mmalign train wrote with --lora")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--model", help="base model, if it has moved since")
    parser.add_argument("--dtype", default="auto", help="auto (default): the base model's; float32, bfloat16, float16")
    options = parser.parse_args(arguments)
    from mmalign import backbones

    if options.output.exists():
        raise InputError("is there already; give another --output", file=options.output)
    where = (options.model, options.adapter) if options.model else (options.adapter, None)
    lost = backbones.merge(where[0], options.output, adapter=where[1], dtype=options.dtype)
    print(f"{options.output}: the whole model, adapter folded in")
    if lost > backbones.NOTEWORTHY:
        print(backbones.rounded_away(lost))
    return 0


def reward(arguments: list[str]) -> int:
    """Write scores into records."""
    from mmalign.rewards._writing import main

    return main(arguments)


def predict(arguments: list[str]) -> int:
    """Answer a benchmark's questions."""
    from mmalign.benchmarks import predict

    return _command("predict", predict, arguments)


def score(arguments: list[str]) -> int:
    """Score a file of answers."""
    from mmalign.benchmarks import score

    return _command("score", score, arguments)


def demo(arguments: list[str]) -> int:
    """The whole story on the embedded world."""
    from mmalign.scenes.demo import main

    return main(arguments)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo,
    "build": build,
    "train": train,
    "reward": reward,
    "predict": predict,
    "score": score,
    "index": index,
    "convert": convert,
    "validate": validate,
    "inspect": inspect,
    "merge": merge,
}

if __name__ == "__main__":
    run()
