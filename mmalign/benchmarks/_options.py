"""Flags that predicting and scoring share."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mmalign import benchmarks
from mmalign.media import FRAMES, FrameChoice
from mmalign.records import InputError, Question

if TYPE_CHECKING:
    from mmalign.backbones import TrainedOn


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
    """--frames, --fps and --video_pixels; those that are not given leave nothing behind."""
    trained = "default: as in its training, else"
    more: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument(
        "--frames", type=positive, help=f"frames of each clip, evenly spaced ({trained} {FRAMES.count})", **more
    )
    parser.add_argument(
        "--fps",
        type=_or_none(float),
        help=f"so many frames a second, at most --frames; or none ({trained} none)",
        **more,
    )
    parser.add_argument(
        "--video_pixels",
        type=_or_none(positive),
        help=f"most pixels of all frames of a clip together; or none, for any ({trained} none)",
        **more,
    )


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads what ``kind`` does, or the word none."""

    def read(text: str) -> Any:
        return None if text == "none" else kind(text)

    read.__name__ = "number"  # argparse says "invalid number value"
    return read


def frame_choice(args: argparse.Namespace, trained_on: TrainedOn | None = None) -> FrameChoice:
    """What the flags of `add_frame_arguments` say; where one says nothing, what the model was trained on."""
    fields = {"count": "frames", "fps": "fps", "pixels": "video_pixels"}
    said = {name: getattr(args, flag) for name, flag in fields.items() if hasattr(args, flag)}
    return replace(trained_on.frames if trained_on else FRAMES, **said)


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
