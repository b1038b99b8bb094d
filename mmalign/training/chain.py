"""The training of a chain of stages: each from the model of the one before, and where it was if it was killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmalign import backbones
from mmalign.records import InputError
from mmalign.training import card, data, identity, metrics, reference, session
from mmalign.training.options import Flags, TrainOptions
from mmalign.training.stages import MERGED, REFERENCES, Chain, Stage, plan


class Trained(NamedTuple):
    """A row of the table at the end."""

    name: str
    objective: str
    records: int
    steps: int | None
    first: float | None
    last: float | None


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


def run(name: str, chain: Chain) -> None:
    """Train the stages that are not finished, and write the model of the last one.

    All records of all stages are read before the first one is trained.

    Raises:
        InputError: records or media do not fit; or the output folder holds another run.
    """
    every = [chain.flags(stage) for stage in chain.stages]
    options = every[-1].options
    what = _identity(name, chain, every)
    if not options.estimate_memory:
        finished = _finished(chain, what)
        session.wait()  # the first rank changes what the others have still to read
        if finished and options.resume:
            session.say(options, f"{chain.output} holds this chain, finished; nothing to do")
            return
    found = [_read(chain, stage, given) for stage, given in zip(chain.stages, every, strict=True)]
    if options.estimate_memory:
        for stage, given, records in zip(chain.stages, every, found, strict=True):
            session.say(options, f"{stage.name}:\n{session.expected_memory(given, records)}")
        return
    if not options.resume:
        _start_over(chain, options)
    if options.process_index == 0:
        identity.write(chain.output, what, finished=False)
    model = chain.model
    for number, (stage, records) in enumerate(zip(chain.stages, found, strict=True), 1):
        own = "".join(f", {flag} {' '.join(words)}" for flag, words in stage.own.items())
        session.say(options, f"stage {number} of {len(chain.stages)}: {stage.name} ({stage.objective}{own})")
        model = _stage(chain, stage, records, model)
    if options.process_index == 0:
        _finish(chain, what, model, found)
    session.wait()


def _start_over(chain: Chain, options: TrainOptions) -> None:
    """Delete every stage: the later ones began with what the earlier ones were."""
    if options.process_index == 0:
        for folder in map(chain.folder, chain.stages):
            if identity.read(folder) is not None:
                shutil.rmtree(folder)
    session.wait()


def _read(chain: Chain, stage: Stage, given: Flags) -> data.RunData:
    try:
        return data.of(given)
    except InputError as error:
        message = f"stage {stage.name}: {error.problem}"
        if "data" not in stage.own and stage.objective != chain.stages[0].objective:
            message += f" (it reads what all stages read: --{stage.name}.data FILE gives it its own)"
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
            lost = backbones.merge(
                model, merged, adapter=folder, dtype=given.model.dtype, trust_remote_code=given.model.trust_remote_code
            )
        if lost > backbones.NOTEWORTHY:
            session.say(given.options, f"{merged}: {backbones.rounded_away(lost)}")
    session.wait()
    return str(merged)


def _finish(chain: Chain, what: Mapping[str, Any], model: str, found: Sequence[data.RunData]) -> None:
    """Put the last stage's model into the output folder, and say what was done."""
    for file in sorted(Path(model).iterdir()):
        if file.is_file() and not file.name.startswith((".", "training", card.NAME)) and file.suffix != ".jsonl":
            unfinished = chain.output / f".{file.name}"
            unfinished.unlink(missing_ok=True)
            _copy(file, unfinished)
            unfinished.replace(chain.output / file.name)
    rows = [_trained(chain, *pair) for pair in zip(chain.stages, found, strict=True)]
    card.write_chain(chain.output, what, markdown(rows))
    identity.write(chain.output, what, finished=True)
    print(f"{table(rows)}\n{chain.output}: the model of the last stage")


def _copy(file: Path, to: Path) -> None:
    """Weights, which nobody edits, take their place on the disk once, where it can do that."""
    if file.suffix == ".safetensors":
        try:
            return os.link(file, to)
        except OSError:
            pass
    shutil.copyfile(file, to)


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


def _finished(chain: Chain, what: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very chain, complete. What has not begun may be said anew.

    Raises:
        InputError: it holds another one.
    """
    before = identity.read(chain.output)
    if before is None or before["finished"]:
        return identity.finished(chain.output, what)
    begun = {stage.name for stage in chain.stages if identity.read(chain.folder(stage)) is not None}
    said = {"stages": {name: said for name, said in what["stages"].items() if name in begun}}
    return bool(begun) and identity.finished(chain.output, {**what, **said})


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
