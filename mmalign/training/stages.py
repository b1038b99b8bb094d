"""A chain of trainings that is one run: stages, each of which goes on from the model of the one before.

A YAML file with ``stages`` asks for it::

    beta: 0.1
    lora: true
    stages:
      - {name: level, each_difficulty: easy_to_hard}
      - {name: sft, objective: sft, data: sft.jsonl, sft_weight: 0.0}

`plan` makes of it what each stage is, without loading anything; `run` trains them. Every stage has a folder of its own
in the output folder, an optimiser, a schedule and an adapter of its own; the adapter is folded into the weights before
the next stage begins.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from mmalign import backbones, flags, plugins
from mmalign.objectives import needs_reference
from mmalign.records import InputError
from mmalign.training import card, data, identity, metrics, reference, session
from mmalign.training.curriculum import DIRECTIONS
from mmalign.training.options import DataOptions, Flags, ModelOptions, TrainOptions, parse

REFERENCES = ("previous", "base")
"""What a stage compares itself with: the model that it starts from, or the one before the first stage."""

MERGED = "merged"
"""Folder inside a stage's own: its model with the adapter folded in."""

_OF_THE_CHAIN = ("model", "output_dir", "resume", "estimate_memory", "config", "stages", "stage_reference")
"""Flags that no stage has for itself."""

_WORDS = ("name", "objective", "each_difficulty")
"""What an entry of ``stages`` says besides flags."""

Given = dict[str, list[str]]
"""Flags as they stand on a command line: the name, and its words."""


@dataclass(frozen=True)
class Stage:
    """One training of a chain.

    Attributes:
        name: of the stage, and of its folder.
        objective: what it learns by.
        given: its flags but the model, the reference and the folder.
        moving: whether the reference is the model that it starts from.
    """

    name: str
    objective: str
    given: Mapping[str, Sequence[str]]
    moving: bool = True


@dataclass(frozen=True)
class Chain:
    """Stages in the order in which they are trained.

    Attributes:
        model: what the first one starts from.
        output: the folder of all.
        common: flags of the chain itself, such as ``--resume``.
        stages: at least one.
    """

    model: str
    output: Path
    common: Mapping[str, Sequence[str]]
    stages: tuple[Stage, ...]

    def folder(self, stage: Stage) -> Path:
        """Where a stage's model, checkpoints and curve are."""
        return self.output / stage.name

    def flags(self, stage: Stage, model: str | None = None) -> Flags:
        """The flags of a stage that starts from ``model``; from that of the chain, where it is not there yet.

        Raises:
            InputError: they do not fit; the message names the stage.
        """
        given = {
            **self.common,
            **stage.given,
            "model": [model or self.model],
            "output_dir": [str(self.folder(stage))],
        }
        try:
            found = parse(stage.objective, _spelled(given))
            if stage.moving or found.model.reference or not needs_reference(found.objective):
                return found
            return found._replace(model=replace(found.model, reference=self.model))
        except InputError as error:
            raise InputError(f"stage {stage.name}: {error}") from None


class Trained(NamedTuple):
    """A row of the table at the end."""

    name: str
    objective: str
    records: int
    steps: int | None
    first: float | None
    last: float | None


def asked(arguments: Sequence[str]) -> bool:
    """Whether the YAML file that a command line names has ``stages``."""
    config = flags.config_of(arguments)
    return config is not None and "stages" in flags.read_config(config)


def train(name: str, arguments: Sequence[str]) -> Path:
    """Train the stages of a chain, or go on with them, and write the model of the last one.

    Returns:
        The output folder: a whole Hugging Face model, without an adapter.

    Raises:
        InputError: flags, records or media do not fit; or the output folder holds another run.
    """
    chain = plan(name, arguments)
    run(name, chain)
    return chain.output


# ---- the plan --------------------------------------------------------------------------------------------


def plan(name: str, arguments: Sequence[str]) -> Chain:
    """What a command line and its YAML file ask for.

    What a stage says of its own comes before what is said to all; the command line comes before the file.

    Args:
        name: the objective of stages that name none.

    Raises:
        InputError: there is no such flag or stage, or what is said does not fit together.
    """
    config = flags.config_of(arguments)
    assert config is not None
    values = flags.read_config(config)
    entries = _entries(values.pop("stages"), config)
    own, rest = _for_one(arguments)
    common = {**_given(values), **rest}
    common.pop("config", None)
    moving = _moving(common)
    if "reference" in common:
        raise InputError("--reference: say --stage_reference base, or --STAGE.reference MODEL of one stage")
    for flag in ("model", "output_dir"):
        if len(common.get(flag, ())) != 1:
            raise InputError(f"--{flag} is missing")
    model, output = (common.pop(flag)[0] for flag in ("model", "output_dir"))
    whole = {flag: common.pop(flag) for flag in ("resume", "estimate_memory") if flag in common}
    classes = {entry["name"]: _fields(entry.get("objective", name)) for entry in entries}
    chain = Chain(model, Path(output), whole, ())
    stages: list[Stage] = []
    for entry in entries:
        mine = _without_others(common, classes, entry["name"])
        stage = Stage(
            entry["name"],
            str(entry.get("objective", name)),
            {**mine, **_given({k: v for k, v in entry.items() if k not in _WORDS}), **own.pop(entry["name"], {})},
            moving,
        )
        stages += _each(chain, stage, entry.get("each_difficulty"), own)
    if own:
        unknown = next(iter(own))
        names = [*classes, *(stage.name for stage in stages)]
        raise InputError(f"--{unknown}.{next(iter(own[unknown]))}: no such stage{flags.suggestion(unknown, names)}")
    _distinct([stage.name for stage in stages], config)
    return replace(chain, stages=tuple(stages))


def _entries(stages: Any, config: Path) -> list[dict[str, Any]]:
    """The mappings of ``stages``, as far as they can be judged alone."""
    if not isinstance(stages, list) or not stages or not all(isinstance(entry, dict) for entry in stages):
        raise InputError("expected a list of mappings, one for each stage", file=config, field="stages")
    for number, entry in enumerate(stages):
        field = f"stages[{number}]"
        name = entry.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
            raise InputError("name is missing: a word, which is the stage's folder too", file=config, field=field)
        if name == MERGED or name.startswith("checkpoint-"):
            raise InputError(f"{name} is the name of other folders; choose another", file=config, field=field)
        if taken := sorted(entry.keys() & set(_OF_THE_CHAIN)):
            raise InputError(f"{taken[0]} is said of the whole chain, not of a stage", file=config, field=field)
        way = entry.get("each_difficulty")
        if way is not None and way not in DIRECTIONS:
            raise InputError(f"each_difficulty is {' or '.join(DIRECTIONS)}, got {way!r}", file=config, field=field)
    _distinct([entry["name"] for entry in stages], config)
    return stages


def _distinct(names: Sequence[str], config: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two stages are called {twice[0]}", file=config, field="stages")


def _moving(common: Given) -> bool:
    """Whether stages have the model that they start from for a reference; takes the flag out."""
    found = " ".join(common.pop("stage_reference", ["previous"]))
    if found not in REFERENCES:
        raise InputError(f"--stage_reference {found}: one of {', '.join(REFERENCES)}")
    return found == "previous"


def _each(chain: Chain, stage: Stage, way: str | None, own: dict[str, Given]) -> list[Stage]:
    """One stage for each difficulty of its records, if that is asked for; flags of these are taken out of ``own``."""
    if way is None:
        return [stage]
    given = chain.flags(stage).data
    found = data.difficulties(given.data, given.difficulty)
    found = found if way == "easy_to_hard" else found[::-1]
    names = [f"{stage.name}-{number}" for number in range(1, len(found) + 1)]
    return [
        replace(stage, name=name, given={**stage.given, "difficulty": [repr(each)], **own.pop(name, {})})
        for name, each in zip(names, found, strict=True)
    ]


def _without_others(common: Given, classes: Mapping[str, set[str]], name: str) -> Given:
    """The flags that all are told, but those that only other stages' objectives have."""
    everywhere = {field.name for options in (ModelOptions, DataOptions, TrainOptions) for field in fields(options)}
    others = set().union(*classes.values()) - classes[name] - everywhere
    return {flag: words for flag, words in common.items() if flag not in others}


def _fields(objective: str) -> set[str]:
    """The options of an objective."""
    return {field.name for field in fields(plugins.find_class("mmalign.objectives", str(objective)))}


def _given(values: Mapping[str, Any]) -> Given:
    """Flags of a YAML mapping."""
    words = [word for key, value in values.items() for word in flags.spell(str(key), value)]
    return _grouped(words)


def _grouped(words: Iterable[str]) -> Given:
    """A command line by its flags, the last of each; what stands before any flag is a flag without a name."""
    found: Given = {}
    current: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            current = found[name.replace("-", "_") if "." not in name else name] = [value] if equals else []
        elif found:
            current.append(word)
        else:
            raise InputError(f"no such flag: {word}; flags begin with --")
    return found


def _for_one(arguments: Sequence[str]) -> tuple[dict[str, Given], Given]:
    """Flags of single stages (``--STAGE.FLAG``) by the stage, and those of all."""
    own: dict[str, Given] = {}
    rest: Given = {}
    for flag, words in _grouped(arguments).items():
        stage, dot, name = flag.partition(".")
        if not dot:
            rest[flag] = words
        elif name in (*_OF_THE_CHAIN, *_WORDS):
            raise InputError(f"--{flag}: {name} is no flag of a stage")
        else:
            own.setdefault(stage, {})[name.replace("-", "_")] = words
    return own, rest


def _spelled(given: Mapping[str, Sequence[str]]) -> list[str]:
    """A command line again. One word is joined to its flag, since it may begin with a minus."""
    return [
        word
        for flag, words in given.items()
        for word in ([f"--{flag}={words[0]}"] if len(words) == 1 else [f"--{flag}", *words])
    ]


# ---- the training ----------------------------------------------------------------------------------------


def run(name: str, chain: Chain) -> None:
    """Train the stages that are not finished, and write the model of the last one.

    All records of all stages are read before the first one is trained.

    Raises:
        InputError: records or media do not fit; or the output folder holds another run.
    """
    every = [chain.flags(stage) for stage in chain.stages]
    options = every[-1].options
    what = _identity(name, chain, every)
    finished = identity.finished(chain.output, what)
    session.wait()  # the first rank changes what the others have still to read
    if finished and options.resume and not options.estimate_memory:
        session.say(options, f"{chain.output} holds this chain, finished; nothing to do")
        return
    found = [_read(stage, given) for stage, given in zip(chain.stages, every, strict=True)]
    if options.estimate_memory:
        for stage, given, records in zip(chain.stages, every, found, strict=True):
            session.say(options, f"{stage.name}:\n{session.expected_memory(given, records)}")
        return
    if options.process_index == 0:
        identity.write(chain.output, what, finished=False)
    model = chain.model
    for number, (stage, records) in enumerate(zip(chain.stages, found, strict=True), 1):
        session.say(options, f"stage {number} of {len(chain.stages)}: {stage.name} ({stage.objective})")
        model = _stage(chain, stage, records, model)
    if options.process_index == 0:
        _finish(chain, what, model, found)
    session.wait()


def _read(stage: Stage, given: Flags) -> data.RunData:
    try:
        return data.of(given)
    except InputError as error:
        message = f"stage {stage.name}: {error.problem}"
        raise InputError(message, file=error.file, line=error.line, field=error.field) from None


def _stage(chain: Chain, stage: Stage, records: data.RunData, model: str) -> str:
    """Train one stage from ``model``, unless it is finished; where the model that comes out is, whole."""
    given, folder = chain.flags(stage, model), chain.folder(stage)
    merged = folder / MERGED
    if given.options.process_index == 0 and not (
        given.options.resume and (identity.read(folder) or {}).get("finished")
    ):
        shutil.rmtree(merged, ignore_errors=True)  # of an adapter that will not be there any more
    session.wait()
    if not session.run(stage.objective, given, records):
        session.say(given.options, f"{folder} is finished")
    if not given.model.lora:
        return str(folder)
    if given.options.process_index == 0 and not merged.exists():
        with reference.not_spread(given.options):
            _merge(model, folder, merged)
    session.wait()
    return str(merged)


def _merge(model: str, adapter: Path, output: Path) -> None:
    """Fold an adapter into ``model``: ``output`` is there whole, or not at all."""
    backbone = backbones.load(model, adapter=adapter, device="cpu")
    backbone.merge_adapter()
    unfinished = output.with_name(f".{output.name}.unfinished")  # what a kill may leave
    shutil.rmtree(unfinished, ignore_errors=True)
    backbone.save(unfinished)
    unfinished.rename(output)


def _finish(chain: Chain, what: Mapping[str, Any], model: str, found: Sequence[data.RunData]) -> None:
    """Put the last stage's model into the output folder, and say what was done."""
    ours = {card.NAME, identity.NAME, metrics.NAME}
    for file in sorted(Path(model).iterdir()):
        if file.is_file() and file.name not in ours and not file.name.startswith("."):
            unfinished = chain.output / f".{file.name}"
            shutil.copyfile(file, unfinished)
            unfinished.replace(chain.output / file.name)
    rows = [_trained(chain, *pair) for pair in zip(chain.stages, found, strict=True)]
    card.write_chain(chain.output, what, markdown(rows))
    identity.write(chain.output, what, finished=True)
    print(f"{table(rows)}\n{chain.output}: the model of the last stage")


def _identity(name: str, chain: Chain, every: Sequence[Flags]) -> dict[str, Any]:
    """Everything that decides what a chain computes.

    Stages are as if each started from the first model; which they do start from follows from the order.
    """
    return {
        "objective": name,
        "model": chain.model,
        "model_fingerprint": backbones.fingerprints(chain.model)["model"],
        "order": [stage.name for stage in chain.stages],
        "stage_reference": REFERENCES[0] if all(stage.moving for stage in chain.stages) else REFERENCES[1],
        "stages": {
            stage.name: identity.of(stage.objective, *given) for stage, given in zip(chain.stages, every, strict=True)
        },
    }


def _trained(chain: Chain, stage: Stage, records: data.RunData) -> Trained:
    rows = metrics.read(chain.folder(stage))
    losses = [row["loss"] for row in rows if "loss" in row]
    steps = max((int(row["step"]) for row in rows), default=None)
    ends = (losses[0], losses[-1]) if losses else (None, None)
    return Trained(stage.name, stage.objective, len(records.records), steps, *ends)


def _cells(rows: Sequence[Trained]) -> list[list[str]]:
    """The table's words, its head first."""
    head = ["stage", "objective", "records", "steps", "first loss", "last loss"]
    return [head] + [
        [*row[:2], f"{row.records:,}", *("-" if each is None else f"{each:,.5g}" for each in row[3:])] for row in rows
    ]


def table(rows: Sequence[Trained]) -> str:
    """What each stage was, for the console."""
    cells = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def markdown(rows: Sequence[Trained]) -> str:
    """The same, for the model card."""
    head, *lines = ["| " + " | ".join(line) + " |" for line in _cells(rows)]
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])
