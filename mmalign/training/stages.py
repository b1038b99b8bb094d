"""A chain of trainings that is one run: stages, each of which goes on from the model of the one before.

A YAML file with ``stages`` asks for it::

    beta: 0.1
    lora: true
    stages:
      - {name: level, each_difficulty: easy_to_hard}
      - {name: sft, objective: sft, data: sft.jsonl, sft_weight: 0.0}

`plan` makes of it what each stage is, without loading anything; `mmalign.training.chain` trains them. Every stage has a
folder of its own in the output folder, an optimiser, a schedule and an adapter of its own; the adapter is folded into
the weights before the next stage begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from mmalign import flags, plugins
from mmalign.objectives import needs_reference
from mmalign.records import InputError
from mmalign.training import data
from mmalign.training.curriculum import DIRECTIONS
from mmalign.training.options import DataOptions, Flags, ModelOptions, TrainOptions, parse

REFERENCES = ("previous", "base")
"""What a stage compares itself with: the model that it starts from, or the one before the first stage."""

MERGED = "merged"
"""Folder inside a stage's own: its model with the adapter folded in."""

MOST_LEVELS = 32
"""Stages that an entry may become by ``each_difficulty``."""

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
        told: flags that are said to all stages, as far as its objective has them.
        own: flags that are said of it alone; these win.
        moving: whether the reference is the model that it starts from.
    """

    name: str
    objective: str
    told: Mapping[str, Sequence[str]]
    own: Mapping[str, Sequence[str]]
    moving: bool = True

    @property
    def given(self) -> dict[str, Sequence[str]]:
        """Its flags but the model, the reference and the folder."""
        return {**self.told, **self.own}


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
            first = not self.stages or stage.name == self.stages[0].name  # which starts from what is the base
            if stage.moving or first or found.model.reference or not needs_reference(found.objective):
                return found
            return found._replace(model=replace(found.model, reference=self.model))
        except InputError as error:
            raise InputError(f"stage {stage.name}: {error}") from None


def asked(arguments: Sequence[str]) -> bool:
    """Whether the YAML file that a command line names has ``stages``; not where only help is wanted."""
    config = flags.config_of(arguments)
    return config is not None and not {"-h", "--help"} & {*arguments} and "stages" in flags.read_config(config)


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
    options = {entry["name"]: _fields(entry.get("objective", name)) for entry in entries}
    everywhere = {field.name for options in (ModelOptions, DataOptions, TrainOptions) for field in fields(options)}
    known = _fields(name).union(*options.values()) - everywhere
    chain = Chain(model, Path(output), whole, ())
    stages: list[Stage] = []
    for entry in entries:
        not_its = known - options[entry["name"]] | {flag for flag, value in entry.items() if value is None}
        told = {flag: words for flag, words in common.items() if flag not in not_its}
        mine = {**_given({k: v for k, v in entry.items() if k not in _WORDS}), **own.pop(entry["name"], {})}
        stage = Stage(entry["name"], str(entry.get("objective", name)), told, mine, moving)
        stages += _each(chain, stage, entry.get("each_difficulty"), own)
    if own:
        unknown = next(iter(own))
        names = [*options, *(stage.name for stage in stages)]
        raise InputError(f"--{unknown}.{next(iter(own[unknown]))}: no such stage{flags.suggestion(unknown, names)}")
    _distinct([stage.name for stage in stages], config)
    _reaches_a_stage(common, stages)
    _one_reference_each(stages)
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


def _reaches_a_stage(common: Given, stages: Sequence[Stage]) -> None:
    for flag in common:
        if not any(flag in stage.given for stage in stages):
            raise InputError(f"--{flag}: no stage's objective has it")


def _one_reference_each(stages: Sequence[Stage]) -> None:
    """Stages have other records, or another reference: what one precomputed is none of the next one's."""
    files = [" ".join(stage.given.get("reference_cache", ())) for stage in stages]
    if any(file and files.count(file) > 1 for file in files):
        raise InputError(
            "--reference_cache: stages cannot share one; leave it out, or say --STAGE.reference_cache FILE"
        )


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
    if len(found) > MOST_LEVELS:
        raise InputError(
            f"stage {stage.name}: {len(found):,} different difficulties would be as many trainings; take --curriculum "
            "with --curriculum_parts in one training, or name ranges by stages of their own (difficulty: [0.1, 0.2])"
        )
    found = found if way == "easy_to_hard" else found[::-1]
    names = [f"{stage.name}-{number}" for number in range(1, len(found) + 1)]
    return [
        replace(stage, name=name, own={**stage.own, "difficulty": [repr(each)], **own.pop(name, {})})
        for name, each in zip(names, found, strict=True)
    ]


def _fields(objective: str) -> set[str]:
    """The options of an objective."""
    found = plugins.find_class("mmalign.objectives", str(objective))
    return {field.name for field in fields(found)} if is_dataclass(found) else set()


def _given(values: Mapping[str, Any]) -> Given:
    """Flags of a YAML mapping.

    Raises:
        InputError: a key is spelled with a hyphen, which no flag is in a file.
    """
    for key in map(str, values):
        if "-" in key:
            raise InputError(f"no such flag{flags.suggestion(key, [key.replace('-', '_')])}", field=key)
    words = [word for key, value in values.items() for word in flags.spell(str(key), value)]
    return _grouped(words)


def _grouped(words: Iterable[str]) -> Given:
    """A command line by its flags, the last of each; ``--no_FLAG`` is FLAG, false."""
    found: Given = {}
    current: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            stage, dot, name = name.rpartition(".")
            current = found[f"{stage}{dot}{name.replace('-', '_')}"] = [value] if equals else []
        elif found:
            current.append(word)
        else:
            raise InputError(f"no such flag: {word}; flags begin with --")
    return dict(_switch(name, values) for name, values in found.items())


def _switch(flag: str, words: list[str]) -> tuple[str, list[str]]:
    stage, dot, name = flag.rpartition(".")
    off = name.startswith("no_") and not words
    return (f"{stage}{dot}{name.removeprefix('no_')}", ["false"]) if off else (flag, words)


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
            own.setdefault(stage, {})[name] = words
    return own, rest


def _spelled(given: Mapping[str, Sequence[str]]) -> list[str]:
    """A command line again. One word is joined to its flag, since it may begin with a minus."""
    return [
        word
        for flag, words in given.items()
        for word in ([f"--{flag}={words[0]}"] if len(words) == 1 else [f"--{flag}", *words])
    ]
