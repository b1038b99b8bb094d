"""The command line of training: which flags there are, and YAML under them.

Flags come from dataclasses: the objective's own fields, `ModelOptions`, `DataOptions`, and transformers'
TrainingArguments with the few defaults that differ here.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from mmalign import plugins
from mmalign.objectives import Objective
from mmalign.records import InputError

PARTS = ("tower", "projector", "language")


@dataclass
class ModelOptions:
    """Which model, and which of its weights move."""

    model: str = field(metadata={"help": "Hugging Face folder or name of the model to train."})
    reference: str | None = field(
        default=None, metadata={"help": "Model to be the reference (default: the model itself, as it was)."}
    )
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa or eager."})
    lora: bool = field(default=False, metadata={"help": "Train a LoRA adapter instead of the weights themselves."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapter: alpha / r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapter."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Names of the layers that get one; all-linear: every linear layer of the parts not frozen."},
    )
    freeze: list[str] = field(
        default_factory=lambda: ["tower"],
        metadata={"help": "Parts that stay as they are: any of tower, projector, language, or none."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that came with the model."})

    def __post_init__(self) -> None:
        if self.freeze == ["none"]:
            self.freeze = []
        unknown = set(self.freeze) - set(PARTS)
        if unknown:
            raise InputError(f"--freeze {' '.join(sorted(unknown))}: parts are {', '.join(PARTS)}, or none")


@dataclass
class DataOptions:
    """Which records."""

    data: str = field(metadata={"help": "Preference records (JSONL); check them with mmalign validate."})
    eval_data: str | None = field(default=None, metadata={"help": "Held-out records, scored during training."})
    media_root: str | None = field(
        default=None, metadata={"help": "Folder that media paths start from (default: the record file's own)."}
    )
    shuffle: bool = field(default=True, metadata={"help": "Draw a new order each epoch; else the file's order."})


@dataclass
class TrainOptions(TrainingArguments):
    """transformers' TrainingArguments; what differs here is written out."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the trained model and its checkpoints."})
    deepspeed: str | None = field(
        default=None, metadata={"help": "zero1, zero2, zero3, or a DeepSpeed JSON file. Used under a launcher."}
    )
    report_to: str = field(default="none", metadata={"help": "Trackers, such as tensorboard or wandb."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many optimisation steps."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not used: records have no columns."})
    resume: bool = field(
        default=True, metadata={"help": "Go on from the newest complete checkpoint in output_dir, if there is one."}
    )

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise InputError("--output_dir is missing: the folder for the trained model")
        self.deepspeed = deepspeed_config(self.deepspeed) if under_launcher() else None
        if not torch.accelerator.is_available():
            self.use_cpu = True  # else several ranks on CPUs are taken for one
            self.ddp_backend = self.ddp_backend or ("gloo" if under_launcher() else None)
        super().__post_init__()


def under_launcher() -> bool:
    """Whether a launcher (deepspeed, torchrun) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def deepspeed_config(name: str | None) -> Any:
    """A DeepSpeed configuration for ``zero1`` to ``zero3``; anything else is a file's name and passed through."""
    stages = {f"zero{stage}": stage for stage in (1, 2, 3)}
    if name not in stages:
        return name
    return {
        "zero_optimization": {
            "stage": stages[name],
            "overlap_comm": True,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


def parse(name: str, arguments: Sequence[str]) -> tuple[Objective, ModelOptions, DataOptions, TrainOptions]:
    """Read flags, with ``--config FILE.yaml`` under them, for the objective ``name``.

    Raises:
        InputError: a key of the YAML file is no flag, or a value does not fit.
    """
    objective = plugins.find_class("mmalign.objectives", name)
    parser = HfArgumentParser(
        [objective, ModelOptions, DataOptions, TrainOptions],
        prog=f"mmalign train {name}",
        usage="%(prog)s --model MODEL --data FILE.jsonl --output_dir FOLDER [--config FILE.yaml] [flags]",
        description=(objective.__doc__ or "").strip(),
        epilog=f"Example: deepspeed train/{name}.py --config train/{name}.yaml --learning_rate 1e-6",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="Flags as YAML; those on the command line win.")
    flags = {action.dest for action in parser._actions}
    if "local_rank" not in flags:  # some transformers know it, some do not; the deepspeed launcher appends it
        parser.add_argument("--local_rank", help="Appended by the deepspeed launcher; the environment says the same.")
    arguments = [*_flags_of(_config_file(arguments), flags), *arguments]
    *options, _, unknown = parser.parse_args_into_dataclasses(
        args=arguments, look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise InputError(f"no such flag: {unknown[0]}{_suggestion(unknown[0].strip('-'), flags)}")
    return tuple(options)


def _config_file(arguments: Sequence[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(list(arguments))[0].config


def _flags_of(config: Path | None, flags: set[str]) -> list[str]:
    """A YAML file as command-line flags, so that both are read by the same rules."""
    if config is None:
        return []
    if not config.is_file():
        raise InputError("no such file", file=config)
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {error}", file=config) from error
    if not isinstance(values, dict):
        raise InputError("expected one mapping of flags to values", file=config)
    spelled: list[str] = []
    for key, value in values.items():
        if key not in flags:
            raise InputError(f"no such flag{_suggestion(str(key), flags)}", file=config, field=str(key))
        if value is not None:
            spelled += [f"--{key}", *_words(value)]
    return spelled


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value]
    return [json.dumps(value) if isinstance(value, dict | bool) else str(value)]


def _suggestion(name: str, flags: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(flags), n=1)
    return f"; did you mean {close[0]}?" if close else "; see --help"
