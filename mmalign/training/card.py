"""The model card of a trained model: what it was made from and how."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmalign

NAME = "README.md"

_PACKAGES = ("torch", "transformers", "peft", "deepspeed")


def write(folder: Path, identity: dict[str, Any], log: list[dict[str, float]]) -> None:
    """Write ``README.md`` into a model folder.

    Args:
        folder: the trained model.
        identity: see `mmalign.training.identity`.
        log: the run's log lines, oldest first.
    """
    (folder / NAME).write_text(text(identity, log), encoding="utf-8")


def write_chain(folder: Path, identity: Mapping[str, Any], table: str) -> None:
    """Write the ``README.md`` of a model that several stages made; each stage's folder has a card of its own.

    Args:
        identity: of the chain; see `mmalign.training.stages`.
        table: its stages, as Markdown.
    """
    base = identity["model"]
    content = f"""{_head("transformers", base, identity["objective"])}
# {Path(base).name}, trained in {len(identity["stages"])} stages

Made with mmalign from `{base}` (fingerprint `{identity["model_fingerprint"]}`). {_how_to_load(False)}

{table}

Each stage's card, curve and checkpoints are in the folder of its name; everything that decided the run is in
`training.json`. Versions: {_versions()}.
"""
    (folder / NAME).write_text(content, encoding="utf-8")


def text(identity: dict[str, Any], log: list[dict[str, float]]) -> str:
    """The card as Markdown."""
    base, adapter = identity["model"]["model"], identity["model"]["lora"]
    last = next((row for row in reversed(log) if "loss" in row), {})
    rows = {
        "base model": f"`{base}` (fingerprint `{identity['model_fingerprint']}`)",
        "objective": f"`{identity['objective']}` {json.dumps(identity['options'])}",
        "records": f"`{identity['data']}` (fingerprint `{identity['data_fingerprint']}`)",
        "trained": f"LoRA, rank {identity['model']['lora_r']}" if adapter else "the weights themselves",
        "frozen": ", ".join(identity["model"]["freeze"]) or "nothing",
        "records a step": identity["batch_size"],
        **identity["training"],
        "last logged step": last.get("step", "-"),
        "versions": _versions(),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""{_head("peft" if adapter else "transformers", base, identity["objective"])}
# {Path(base).name}, trained with {identity["objective"]}

Made with mmalign. {_how_to_load(adapter)}

| | |
|---|---|
{table}

The training curve is in `metrics.jsonl`; everything that decided the run is in `training.json`.
"""


def _head(library: str, base: str, objective: str) -> str:
    """What a hub reads of a card."""
    return f"""---
library_name: {library}
pipeline_tag: image-text-to-text
base_model: {base}
tags: [mmalign, {objective}]
---
"""


def _versions() -> str:
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return f"mmalign {mmalign.__version__}, {packages}, Python {platform.python_version()}"


def _how_to_load(adapter: bool) -> str:
    if adapter:
        return "This is a PEFT adapter; `mmalign merge FOLDER --output MERGED` folds it into its base model."
    return "It loads with `AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained`."


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"
