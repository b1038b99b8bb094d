"""`mmalign score`: predictions against the questions of a benchmark, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from mmalign import benchmarks
from mmalign.benchmarks import Score, _options
from mmalign.benchmarks._files import read_text_predictions
from mmalign.records import Prediction, Question, atomic_write

EPILOG = """example:
  mmalign score pope --data POPE/output/coco --predictions runs/pope.jsonl
  mmalign score pope --data coco_pope_random.json --predictions answers.jsonl --rule xor --json

Questions without a prediction and answers that could not be read are counted and printed with the score."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `mmalign score`."""
    parser.description = "Score predictions by a benchmark's own rule. Needs no model and no GPU."
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _options.add_data_arguments(parser)
    parser.add_argument("--predictions", type=Path, required=True, help="file of predictions or official answers")
    parser.add_argument("--rule", help="how answers are read (default: the benchmark's first, the official one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")


def command(args: argparse.Namespace) -> int:
    """Run `mmalign score` with parsed flags; returns the exit status."""
    benchmark = benchmarks.load(args.benchmark)
    questions = _options.read_questions(benchmark, args.data, args.option)
    result = score_file(benchmark, questions, args.predictions, rule=args.rule)
    if args.output:
        write_score(args.output, result)
    print(json.dumps(result) if args.json else table(result))
    if result["n_missing"]:
        print(
            f"warning: {result['n_missing']} of {result['n_items']} questions have no prediction",
            file=sys.stderr,
        )
    return 0


def score_file(
    benchmark: ModuleType, questions: Sequence[Question], predictions: Path, *, rule: str | None = None
) -> Score:
    """Score a file of predictions by ``rule``, or by the benchmark's default."""
    answers = read_predictions(benchmark, questions, predictions)
    return benchmark.score(questions, answers, **({"rule": rule} if rule else {}))


def read_predictions(benchmark: ModuleType, questions: Sequence[Question], path: Path) -> list[Prediction]:
    """Predictions in our own shape, or in any that the benchmark's own reader knows."""
    if hasattr(benchmark, "read_predictions"):
        return benchmark.read_predictions(path, questions)
    return read_text_predictions(path, "id", "text")


def write_score(path: Path, result: Score) -> None:
    """Write a score as indented JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")


def table(result: Score) -> str:
    """A score for people: a line for each group and one for the whole, and what was counted."""
    rows = {**result["groups"], "all": result["metrics"]}
    first = max(map(len, rows))
    columns = list(result["metrics"])
    lines = [" " * first + "".join(f"  {column:>9}" for column in columns)]
    for name, metrics in rows.items():
        values = (f"  {metrics[column]:>{max(9, len(column))}.4f}" for column in columns)
        lines.append(f"{name:<{first}}" + "".join(values))
    counts = f"{result['n_items']} items, {result['n_missing']} missing, {result['n_unparsed']} unparsed"
    return "\n".join([f"{result['benchmark']} (rule {result['rule']}): {counts}", "", *lines])
