"""Flags that predicting and scoring share."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmalign import benchmarks
from mmalign.media import FRAMES, FrameChoice
from mmalign.records import InputError, Question


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, --data and --option."""
    available = ", ".join(benchmarks.names())
    parser.add_argument("benchmark", metavar="NAME", help=f"{available}, or path/to/your_benchmark.py")
    parser.add_argument("--data", type=Path, required=True, help="the benchmark's official file or folder")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=key_value,
        metavar="KEY=VALUE",
        help="an option of the benchmark's questions, such as prompt=short; may be given several times",
    )


def key_value(text: str) -> tuple[str, Any]:
    """``key=value`` as a pair; the value is JSON where it can be read as such, else the string itself."""
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def positive(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def add_frame_arguments(parser: argparse.ArgumentParser) -> None:
    """--frames, --fps and --video_pixels."""
    trained = f"(default: as in its training, else {FRAMES.count})"
    parser.add_argument("--frames", type=positive, help=f"frames of each clip, evenly spaced {trained}")
    parser.add_argument("--fps", type=float, help="so many frames a second, at most --frames")
    parser.add_argument("--video_pixels", type=positive, help="most pixels of all frames of a clip together")


def frame_choice(args: argparse.Namespace, trained_on: FrameChoice | None = None) -> FrameChoice:
    """What the flags of `add_frame_arguments` say; where they say nothing, what the model was trained on."""
    if args.frames is None and args.fps is None and args.video_pixels is None:
        return trained_on or FRAMES
    return FrameChoice(args.frames or FRAMES.count, args.fps, args.video_pixels)


def read_questions(
    benchmark: ModuleType, data: Path, options: Mapping[str, Any] | Sequence[tuple[str, Any]] = ()
) -> list[Question]:
    """All questions at ``data``.

    Raises:
        InputError: an option that this benchmark does not have, or what its ``questions`` finds wrong.
    """
    options = dict(options)
    known = list(inspect.signature(benchmark.questions).parameters)[1:]
    for name in options:
        if name not in known:
            raise InputError(f"no such option of this benchmark (there is: {', '.join(known) or 'none'})", field=name)
    return list(benchmark.questions(data, **options))


def media_root_of(data: Path) -> Path:
    """Where pictures are looked for unless told otherwise: the folder of the data."""
    return data if data.is_dir() else data.parent
