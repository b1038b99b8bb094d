"""Builders: media and prompts in, preference records out.

A builder is one file with a frozen dataclass whose fields are its options, and so its flags. It is called with one
unit of the work and a model, and gives for every source of the unit its records or the reason why there is none::

    builder = load("bdhs", rho_th=0.98)
    summary = build(builder, sources("photos.jsonl"), backbones.load(MODEL), "pairs.jsonl", media_root="photos")

What a builder writes must depend on its options, the model and the source alone (seeds from `mmalign.runs`), never
on batching or on the number of processes. Output ids are ``SOURCE#VARIANT``. It may also say

- ``wants``, a class variable: `BACKBONE`, a model whose forward it steers (so for one that says nothing); `WRITER`, any
  model that writes texts, here or behind an endpoint; `NOTHING`, no model at all;
- ``aside``, a class variable: names of options on which nothing that it writes depends (a folder to keep work in);
- ``outcome(record) -> str``: the word that a record is counted under when all are built;
- ``inputs() -> dict[str, str]``: fingerprints of what else its records depend on (an index, a second model);
- ``check(model)``: raises InputError at a model that will not do, before anything is written.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmalign import flags, plugins, runs
from mmalign.builders._sources import sources
from mmalign.endpoint import ModelOptions, WriterOptions
from mmalign.media import open_image
from mmalign.records import InputError, MediaError, Record, media_path, read_jsonl
from mmalign.runs import Drop, Summary

if TYPE_CHECKING:
    from PIL import Image
    from transformers import HfArgumentParser

    from mmalign.backbones import Job
    from mmalign.endpoint import Writer

__all__ = ["BACKBONE", "NOTHING", "WRITER", "Builder", "Drop", "Unit", "build", "load", "main", "sources"]

BACKBONE, WRITER, NOTHING = "backbone", "writer", "nothing"
"""What a builder wants of a model; see the top of this page."""


@dataclass(frozen=True)
class Unit:
    """One unit of the work: sources that are built together.

    Attributes:
        items: the sources.
        media_root: folder that their media names start from.
        batch_size: how many texts the model may write at a time. It belongs to the machine, not to the data: what
            is written depends on it no more than floating-point sums do. In float32 that turns next to no sampled
            word; in bfloat16 and float16 many, though the distribution stays the same.
    """

    items: tuple[Record, ...]
    media_root: Path
    batch_size: int = 8

    def images(self, record: Record) -> tuple[Image.Image, ...] | Drop:
        """The pictures of a source, or the reason why one cannot be had."""
        try:
            return tuple(open_image(media_path(name, self.media_root)) for name in record.images)
        except MediaError as error:
            return Drop(error.reason, str(error))

    def write(self, model: Writer, jobs: Sequence[Job], **options: Any) -> list[str]:
        """What ``model`` writes for each job; see `mmalign.backbones.Backbone.generate` for the options."""
        return model.generate(jobs, batch_size=self.batch_size, **options)


class Builder(Protocol):
    """What `build` expects of a builder."""

    def __call__(self, unit: Unit, model: Any) -> Iterator[tuple[str, list[Record] | Drop]]:
        """For every source of ``unit``, in any order: its id, and its records (at least one) or why there is none."""


def load(name: str, **options: Any) -> Builder:
    """The builder ``name`` (a file here, or ``path/to/my_builder.py:MyBuilder``) with ``options`` set."""
    return plugins.find_class(__name__, name)(**options)


def build(
    builder: Builder,
    sources: Sequence[Record],
    model: Writer | None,
    output: str | Path,
    *,
    media_root: str | Path,
    unit_size: int = 16,
    batch_size: int = 8,
    progress: bool = True,
) -> Summary:
    """Build ``output``, or go on building it: resumable, shared by all ranks, see `mmalign.runs.run`.

    Every record's ``meta`` is completed with the builder, its options and the model's fingerprint.

    Args:
        builder: what makes records of sources.
        sources: with unique ids.
        model: what the builder writes with; None for one that wants nothing.
        output: the record file; ``output.run`` beside it holds unfinished work and, at the end, ``drops.jsonl``.
        media_root: folder that the sources' media names start from. Records keep these names.
        unit_size: sources in a unit: what a kill can cost, and what is batched.
        batch_size: texts that the model writes at a time. The manifest has it where that may change them: where a
            model was loaded here in another dtype than float32.
        progress: show a bar.

    Raises:
        InputError: two sources have one id, or ``output`` belongs to other sources, options or another model.
    """
    if batch_size < 1:
        raise InputError(f"must be 1 or more, got {batch_size}", field="batch_size")
    maker = {
        "builder": type(builder).__module__.rpartition(".")[2],
        "options": {k: v for k, v in asdict(builder).items() if k not in getattr(builder, "aside", ())},
        "model": model.fingerprint() if model else None,
    }
    if hasattr(builder, "check"):
        builder.check(model)
    inputs = builder.inputs() if hasattr(builder, "inputs") else {}
    dtype = str(getattr(model, "dtype", None))
    coarse = dtype.removeprefix("torch.") not in ("None", "float32")
    root = Path(media_root).resolve()

    def work(unit: runs.Unit) -> Iterator[tuple[str, list[Record] | Drop]]:
        for source, result in _built(builder, Unit(unit.items, root, batch_size), model):
            if not isinstance(result, Drop):
                result = [replace(record, meta={**maker, **record.meta}) for record in result]
            yield source, result

    return runs.run(
        output,
        sources,
        work,
        unit_size=unit_size,
        manifest={
            **maker,
            "dtype": dtype,
            **({"batch_size": batch_size} if coarse else {}),
            **({"native_video": True} if getattr(model, "native_video", False) else {}),
            "files": {file: runs.fingerprint(Path(file)) for file in plugins.own_files(builder)},
            "inputs": inputs,
            "media_root": str(root),
        },
        description=maker["builder"],
        progress=progress,
    )


def _built(builder: Builder, unit: Unit, model: Writer | None) -> Iterator[tuple[str, list[Record] | Drop]]:
    """What the builder makes of a unit; or of each source alone, where the model cannot be shown one of them."""
    left = {source.id: source for source in unit.items}
    try:
        for source, result in builder(unit, model):
            left.pop(source, None)
            yield source, result
    except InputError as error:
        drop = _refusal(error)
        if drop is None or not left:
            raise
        if len(left) == 1:
            yield next(iter(left)), drop
            return
        for source in left.values():
            yield from _built(builder, replace(unit, items=(source,)), model)


def _refusal(error: InputError) -> Drop | None:
    """Why a source cannot be shown to the model; None where something else is wrong."""
    if isinstance(error, MediaError):
        return Drop(error.reason, str(error))
    return Drop("not_encodable", str(error)) if error.field == "prompt" else None


# ---- the command line ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildOptions:
    """What is built from what, and where it goes."""

    data: str = field(
        metadata={"help": "Sources (JSONL): records, or {image, question, answer} rows, as far as the builder needs."}
    )
    output: str = field(metadata={"help": "Preference records to write (JSONL). The same command again resumes."})
    media_root: str | None = plugins.option(None, "Folder that media paths start from (default: the data file's own).")
    unit_size: int = plugins.option(16, "Sources in a unit: what is batched, and the most that a kill can cost.")


_MODEL_OPTIONS: dict[str, list[type]] = {BACKBONE: [ModelOptions], WRITER: [WriterOptions], NOTHING: []}


def main(name: str, arguments: Sequence[str] | None = None) -> int:
    """Build with the builder ``name``: the door of ``mmalign build NAME`` and of the scripts in ``data_builders/``.

    Args:
        name: a builder's file name, or ``path/to/my_builder.py:MyBuilder``.
        arguments: the command line, ``sys.argv[1:]`` by default.

    Returns:
        The exit status: 1 if not one record came of the sources, 2 for input that cannot be used.
    """
    return flags.guarded(f"mmalign build {name}", lambda: _run(name, sys.argv[1:] if arguments is None else arguments))


def _run(name: str, arguments: Sequence[str]) -> int:
    builder, options, *of_model = flags.parse(parser(name), arguments)
    root, output = Path(options.media_root or Path(options.data).parent), Path(options.output)
    if not root.is_dir():
        raise InputError("is no folder that media paths could start from", file=root, field="media_root")
    found = sources(options.data)
    model = of_model[0].load() if of_model else None
    batch_size = {"batch_size": of_model[0].batch_size} if of_model else {}
    summary = build(builder, found, model, output, media_root=root, unit_size=options.unit_size, **batch_size)
    if not summary.complete:
        return 0
    print(_report(builder, summary, output))
    if not summary.records:
        drops = Path(f"{output}.run", "drops.jsonl")
        first = next(read_jsonl(drops, lambda row, **_: row))
        print(f"nothing came of it; the first source, {first['source']}: {first['reason']} {first['detail']}".rstrip())
        print(f"all of them: {drops}. media paths start from {root}: is --media_root right?")
        return 1
    if root.resolve() != output.parent.resolve():
        print(f"media paths start from {root}: train with --media_root {root}")
    return 0


def parser(name: str) -> HfArgumentParser:
    """The command line of a builder: its own options, what is built, and the model's where it wants one."""
    plugin = plugins.find_class(__name__, name)
    of_model = _MODEL_OPTIONS[getattr(plugin, "wants", BACKBONE)]
    given = f"{'--model MODEL ' if of_model else ''}--data SOURCES.jsonl --output PAIRS.jsonl"
    shelf = "" if name.endswith(".py") or ":" in name else f" --config data_builders/{name}.yaml"
    return flags.parser(
        [plugin, BuildOptions, *of_model],
        prog=f"mmalign build {name}",
        usage=f"%(prog)s {given} [--config FILE.yaml] [flags]",
        description=(plugin.__doc__ or "").strip(),
        epilog=f"Example: mmalign build {name}{shelf} {given}",
    )


def _report(builder: Builder, summary: Summary, output: Path) -> str:
    """What became of the sources, as a table: outcomes of the records, then reasons of the drops."""
    outcomes: Counter[str] = Counter()
    if hasattr(builder, "outcome"):
        outcomes.update(builder.outcome(record) for record in read_jsonl(output, Record.parse))
    dropped = {f"dropped: {reason}": count for reason, count in summary.drops.items()}
    lines = [f"{output}: {summary.records} records from {summary.kept} of {summary.sources} sources"]
    for label, count in [*sorted(outcomes.items()), *dropped.items()]:
        whole = summary.sources if label in dropped else summary.records
        lines.append(f"  {label:<32} {count:>8} {count / whole:>7.1%}")
    return "\n".join(lines)
