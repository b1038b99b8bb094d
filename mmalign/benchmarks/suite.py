"""A suite: several benchmarks for one model, predicted and scored, from one YAML file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import benchmarks
from mmalign.benchmarks import Score, _options
from mmalign.benchmarks._files import read_utf8
from mmalign.benchmarks.predict import add_model_arguments, load_model, predict
from mmalign.benchmarks.score import score_file, table, write_score
from mmalign.media import FRAMES, FrameChoice
from mmalign.records import InputError

if TYPE_CHECKING:
    from mmalign.backbones import Backbone


@dataclass(frozen=True)
class Entry:
    """One benchmark of a suite.

    Attributes:
        benchmark: its name, or a path to a .py file.
        data: its official file or folder.
        media_root: folder of the pictures; where the data is unless given.
        name: what it is called in the suite's results; the benchmark's name unless given.
        options: of its questions.
        rule: of its score; its default unless given.
        max_new_tokens: limit of an answer; the benchmark's unless given.
    """

    benchmark: str
    data: Path
    media_root: Path | None = None
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    rule: str | None = None
    max_new_tokens: int | None = None

    @property
    def label(self) -> str:
        """The name of its result and of its files."""
        return self.name or Path(self.benchmark).stem


def read_suite(path: Path) -> list[Entry]:
    """The entries under ``suite`` in a YAML file.

    Raises:
        InputError: no such file, no YAML, an unknown field, one that is missing, or two entries of one name.
    """
    import yaml

    try:
        content = yaml.safe_load(read_utf8(path))
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {error}", file=path) from None
    rows = content.get("suite") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError("expected a list of benchmarks", file=path, field="suite")
    entries = [_entry(row, path, f"suite[{index}]") for index, row in enumerate(rows)]
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels):
        raise InputError("two entries have one name: give each its own `name`", file=path, field="suite")
    return entries


def _entry(row: Any, path: Path, place: str) -> Entry:
    known = [f.name for f in fields(Entry)]
    if not isinstance(row, dict) or not (row.get("benchmark") and row.get("data")) or not row.keys() <= set(known):
        raise InputError(f"expected benchmark and data, and of {', '.join(known)} no others", file=path, field=place)
    texts = ("benchmark", "data", "name", "media_root", "rule")
    wrong = [key for key in texts if not isinstance(row.get(key, ""), str | None)]
    wrong += ["options"] * (not isinstance(row.get("options", {}), dict | None))
    wrong += ["max_new_tokens"] * (not isinstance(row.get("max_new_tokens", 1), int | None))
    if wrong:
        raise InputError(f"{wrong[0]} is not of the right kind: {row[wrong[0]]!r}", file=path, field=place)
    given = {key: value for key, value in row.items() if value is not None}
    return Entry(**{key: Path(value) if key in {"data", "media_root"} else value for key, value in given.items()})


def run_suite(
    backbone: Backbone,
    entries: Sequence[Entry],
    output: Path,
    *,
    batch_size: int = 8,
    frames: FrameChoice = FRAMES,
    progress: bool = True,
) -> dict[str, Score]:
    """Predict and score every entry into the folder ``output``.

    Writes LABEL.jsonl (predictions) and LABEL.json (score) for each. Resumable, and shared by ranks, as
    `mmalign.benchmarks.predict.predict` is.

    Returns:
        The scores by label: of all entries on the rank that finishes last, of fewer on others.
    """
    output = Path(output)
    scores: dict[str, Score] = {}
    for entry in entries:
        benchmark = benchmarks.load(entry.benchmark)
        questions = _options.read_questions(benchmark, entry.data, entry.options)
        predictions = output / f"{entry.label}.jsonl"
        summary = predict(
            backbone,
            questions,
            predictions,
            media_root=entry.media_root or _options.media_root_of(entry.data),
            batch_size=batch_size,
            max_new_tokens=entry.max_new_tokens or benchmark.MAX_NEW_TOKENS,
            frames=frames,
            progress=progress,
        )
        if summary.complete:
            scores[entry.label] = score_file(benchmark, questions, predictions, rule=entry.rule)
            write_score(output / f"{entry.label}.json", scores[entry.label])
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """``--config SUITE.yaml --model M --output DIR``; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Predict and score a suite of benchmarks for one model. Resumable; scores go to "
        "OUTPUT/NAME.json, answers to OUTPUT/NAME.jsonl.",
        epilog="example: python eval/hallucination.py --config eval/hallucination.yaml --model M --output runs/eval",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the suite")
    parser.add_argument("--output", type=Path, required=True, help="folder for answers and scores")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher adds it; ranks come from env
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    try:
        entries = read_suite(args.config)  # what is wrong with it is better known before a model is loaded
        backbone = load_model(args)
        frames = _options.frame_choice(args, backbone.trained_on)
        scores = run_suite(backbone, entries, args.output, batch_size=args.batch_size, frames=frames)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if scores:
        print(json.dumps(scores) if args.json else "\n\n".join(map(table, scores.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
