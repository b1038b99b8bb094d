"""The model card of a trained model: what it was made from and how."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmalign

_PACKAGES = ("torch", "transformers", "peft", "deepspeed")


def write(folder: Path, identity: dict[str, Any], log: list[dict[str, float]]) -> None:
    """Write ``README.md`` into a model folder.

    Args:
        folder: the trained model.
        identity: see `mmalign.training.session`.
        log: the run's log lines, oldest first.
    """
    (folder / "README.md").write_text(text(identity, log), encoding="utf-8")


def text(identity: dict[str, Any], log: list[dict[str, float]]) -> str:
    """The card as Markdown."""
    base, adapter = identity["model"]["model"], identity["model"]["lora"]
    last = next((row for row in reversed(log) if "loss" in row), {})
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    rows = {
        "base model": f"`{base}` (fingerprint `{identity['model_fingerprint']}`)",
        "objective": f"`{identity['objective']}` {json.dumps(identity['options'])}",
        "records": f"`{identity['data']}` (fingerprint `{identity['data_fingerprint']}`)",
        "trained": f"LoRA, rank {identity['model']['lora_r']}" if adapter else "the weights themselves",
        "frozen": ", ".join(identity["model"]["freeze"]) or "nothing",
        "records a step": identity["batch_size"],
        **identity["training"],
        "last logged step": last.get("step", "-"),
        "versions": f"mmalign {mmalign.__version__}, {versions}, Python {platform.python_version()}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: {"peft" if adapter else "transformers"}
pipeline_tag: image-text-to-text
base_model: {base}
tags: [mmalign, {identity["objective"]}]
---

# {Path(base).name}, trained with {identity["objective"]}

Made with mmalign. {_how_to_load(adapter)}

| | |
|---|---|
{table}

The training curve is in `metrics.jsonl`; everything that decided the run is in `training.json`.
"""


def _how_to_load(adapter: bool) -> str:
    if adapter:
        return "This is a PEFT adapter; `mmalign merge FOLDER --output MERGED` folds it into its base model."
    return "It loads with `AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained`."


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"
