"""What a training run is: everything that decides what it computes, kept beside the model as ``training.json``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmalign import backbones, runs
from mmalign.objectives import Objective
from mmalign.records import InputError
from mmalign.training import checkpoints
from mmalign.training.options import DataOptions, Flags, ModelOptions, TrainOptions

NAME = "training.json"
"""What a run is: written at its start, compared when it is started again."""

_SIGNS_OF_A_MODEL = ("config.json", "adapter_config.json")
_HOW_IT_WAS_SPELLED = ("data", "model", "model.model", "model.reference")
"""Parts of the identity for a reader; what they name is in it by its fingerprint."""

_AS_BEGUN = (("model.video", "auto"),)
"""Flags with the value that leaves them to how the run was begun."""

_SHOWN = 8
"""How many of the parts that differ a message names."""

_DATA = (
    "shuffle",
    "group_by_length",
    "difficulty",
    "curriculum",
    "curriculum_parts",
    "replay",
    "frames",
    "fps",
    "video_pixels",
    "max_length",
    "too_long",
)

_MATHS = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "seed",
    "optim",
    "optim_args",
    "sft_weight",
    "end_of_turn",
    "tower_learning_rate",
    "projector_learning_rate",
    "bf16",
    "fp16",
)

_DEFAULTS = {"training.end_of_turn": True, "difficulty": [], "replay": 0.0, "model.video": "auto"}
"""What runs were that do not say it yet, where that is not None."""


def of(
    name: str, objective: Objective, model: ModelOptions, data: DataOptions, options: TrainOptions
) -> dict[str, Any]:
    """Everything that decides what the run computes, as far as its mathematics goes; nothing is loaded for it."""
    batch = options.train_batch_size * options.gradient_accumulation_steps * options.world_size
    return {
        "objective": name,
        "options": asdict(objective),
        "model": {k: v for k, v in asdict(model).items() if k != "trust_remote_code"},
        "model_fingerprint": backbones.fingerprints(model.model)["model"],
        "reference_fingerprint": backbones.fingerprints(model.reference) if model.reference else None,
        "objective_file": _own_file(objective),
        "media_root": str(Path(data.media_root or Path(data.data).parent).resolve()),
        "data": data.data,
        "data_fingerprint": runs.fingerprint(Path(data.data)),
        **{key: getattr(data, key) for key in _DATA},
        "batch_size": batch,
        "training": {key: _plain(getattr(options, key)) for key in _MATHS},
    }


def _own_file(objective: Objective) -> str | None:
    """The fingerprint of an objective's file that is not part of this package."""
    if type(objective).__module__.startswith("mmalign.objectives."):
        return None
    return runs.fingerprint(Path(inspect.getfile(type(objective))))


def _plain(value: Any) -> Any:
    """A value for JSON; a mapping as one word, None where it is empty, so that what was taken out of it is noticed."""
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True) if value else None
    return getattr(value, "value", value)


def read(output: Path) -> dict[str, Any] | None:
    """What stands in a folder's ``training.json``; None if there is none.

    Raises:
        InputError: it is damaged, or the folder holds a model that was not trained here.
    """
    file = output / NAME
    if not file.is_file():
        if checkpoints.all_of(output) or any((output / name).is_file() for name in _SIGNS_OF_A_MODEL):
            raise InputError("holds a model that was not trained here; give another --output_dir", file=output)
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found["finished"], bool):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError("is damaged; delete it, or give another --output_dir", file=file)


def finished(output: Path, identity: Mapping[str, Any]) -> bool:
    """Whether ``output`` holds this very run, complete.

    Raises:
        InputError: it holds another one; the message names what differs.
    """
    before = read(output)
    if before is None:
        return False
    then, now = _flat(before), _flat(json.loads(json.dumps(identity)))
    changed = [
        f"{key}: {then.get(key)!r} -> {new!r}"
        for key, new in now.items()
        if then.get(key, _DEFAULTS.get(_of_stage(key))) != new
        and _of_stage(key) not in _HOW_IT_WAS_SPELLED
        and (_of_stage(key), new) not in _AS_BEGUN
    ]
    if changed:
        advice = "give another --output_dir, or delete this one"
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        what = f"{'; '.join(changed[:_SHOWN])}{more}"
        raise InputError(f"another training run is in this folder ({what}); {advice}", file=output)
    return before["finished"]


def as_begun(output: Path, given: Flags) -> Flags:
    """The flags of a run that may have begun already: ``--video auto`` is then what it came to.

    Another machine, or torchvision that was installed meanwhile, would show it clips in another way.
    """
    before = read(output)
    if before is None or given.model.video != "auto":
        return given
    return given._replace(model=replace(given.model, video=before["model"].get("video", "auto")))


def write(output: Path, content: Mapping[str, Any], *, finished: bool) -> None:
    """Write ``training.json``, whole or not at all."""
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / f".{NAME}"
    temporary.write_text(json.dumps({**content, "finished": finished}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(output / NAME)


def _of_stage(key: str) -> str:
    """The name of a part as a single training has it; that of a chain's stage is ``stages.NAME.PART``."""
    return key.split(".", 2)[2] if key.startswith("stages.") else key


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Nested names joined by dots, so that what differs can be named."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        inner = _flat(value) if isinstance(value, dict) else None
        flat |= {key: value} if inner is None else {f"{key}.{name}": each for name, each in inner.items()}
    return flat
