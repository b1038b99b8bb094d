"""Backbones: a vision-language model of any family behind one contract.

`load` returns a `Backbone` around a model that transformers' ``AutoModelForImageTextToText`` loads. What is common
to all families lives in `_backbone` and `_generation`; each family has a file of its own here, named after its
``model_type``, with a subclass that holds only what differs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from mmalign import plugins
from mmalign.backbones import _trained_on
from mmalign.backbones._backbone import Backbone, Context, Features, Response, fingerprint_of
from mmalign.backbones._generation import Job
from mmalign.backbones._packing import Packed, Row
from mmalign.backbones._processors import load_processor, reads_clips
from mmalign.backbones._trained_on import TrainedOn
from mmalign.backbones._written import Processed
from mmalign.records import InputError

_UNLOADABLE = (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError)
"""What transformers and peft raise at folders that are absent, torn or of another kind."""

VIDEO = ("auto", "native", "frames")
"""How clips may be shown to a model; see `load`."""

__all__ = [
    "VIDEO",
    "Backbone",
    "Context",
    "Features",
    "Job",
    "Packed",
    "Processed",
    "Response",
    "Row",
    "TrainedOn",
    "fingerprints",
    "load",
    "merge",
]


def load(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    device: str | None = None,
    load_in_4bit: bool = False,
    trust_remote_code: bool = False,
    video: str = "auto",
) -> Backbone:
    """Load a model and its processor from a Hugging Face folder or name.

    Args:
        path: model folder or hub name; a PEFT adapter folder also works and brings its base model along.
        adapter: PEFT adapter folder to put on top of ``path``.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        attn_implementation: ``sdpa``, ``eager`` or another name that transformers knows.
        device: where to put the weights; this process's GPU, or else the CPU, by default. On ``meta`` they are not
            loaded: a model to look at.
        load_in_4bit: hold the language model's linear layers in 4 bits (NF4), for an adapter to be trained on
            (QLoRA: Dettmers et al. 2023). Needs bitsandbytes.
        trust_remote_code: run Python code that came with the model. Off unless asked for.
        video: how clips are shown: ``native``, by the video processor of the model's family; ``frames``, as pictures of
            their frames; ``auto``, as in the model's training, or else the first where that can be.
            `Backbone.native_video` says which.

    Raises:
        InputError: the folder holds no model or processor that transformers can load; bitsandbytes is missing; or what
            ``native`` clips need, also where ``auto`` comes to them by the model's training.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    path, adapter = _base_and_adapter(str(path), adapter)
    if Path(path).is_dir():
        path = str(Path(path).resolve())  # an adapter made from it remembers where its base is
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    device = device or _default_device()
    with _loading("a vision-language model", path):
        config = AutoConfig.from_pretrained(path, **options)
        family = backbone_class(config.model_type)
        processor = load_processor(path, config, **options)
    sources = [source for source in (path, adapter) if source is not None]
    trained_on = _trained_on.read(*sources)
    clips = {"native_video": _native_video(video, trained_on, family, processor, config.model_type)}
    clips["trained_on"] = trained_on
    options |= {"dtype": dtype, "attn_implementation": attn_implementation}
    with _loading("a vision-language model", path):
        if device == "meta":
            options["dtype"] = (config.dtype or torch.float32) if dtype == "auto" else dtype
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config, **options)
                return family(model, processor, [path], **clips)
        if load_in_4bit:
            options |= _in_4bit(family, config, device)
        model, loaded = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True, **options)
    if missing := sorted(loaded["missing_keys"]):  # transformers would go on with random ones
        raise InputError(f"lacks {len(missing)} of the model's weights, {missing[0]} for one", file=path)
    # Names are turned back on saving. Under ZeRO-3 transformers keeps renamings that this checkpoint had no use for.
    model._weight_conversions = [c for c in getattr(model, "_weight_conversions", None) or () if c.was_used()] or None
    if adapter is not None:
        from peft import PeftModel

        with _loading("an adapter", adapter):
            model = PeftModel.from_pretrained(model, str(adapter))
    model = model.eval() if load_in_4bit else model.to(device).eval()
    return family(model, processor, sources, **clips)


@contextmanager
def _loading(what: str, file: str | Path) -> Iterator[None]:
    """Puts what transformers and peft raise inside into an InputError."""
    try:
        yield
    except _UNLOADABLE as error:
        raise InputError(f"cannot load {what}: {_first_line(error)}", file=file) from error


def _native_video(
    video: str, trained_on: TrainedOn | None, family: type[Backbone], processor: Any, model_type: str
) -> bool:
    """Whether clips go through the model's own video processor."""
    if video not in VIDEO:
        raise InputError(f"expected one of {', '.join(VIDEO)}, got {video!r}", field="video")
    wanted = trained_on.video if trained_on and video == "auto" else video
    can = family.knows_clips and reads_clips(processor)
    if wanted == "native" and not can:
        why = (
            "its video processor needs torchvision: pip install torchvision"
            if family.knows_clips
            else f"models of type {model_type} know none"
        )
        what = "no native clips" if video == "native" else "was trained on native clips"
        raise InputError(f"{what}, {why}; --video frames shows them as pictures", field="video")
    return can and wanted != "frames"


def _in_4bit(family: type[Backbone], config: Any, device: str) -> dict[str, Any]:
    """Options of ``from_pretrained`` that quantise what `Backbone.quantizable` names."""
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise InputError("--load_in_4bit needs bitsandbytes: pip install bitsandbytes") from None
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    stay = [name for name, module in model.named_modules() if family.part_of(name) != "language" and name]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*stay, "lm_head"],
    )
    return {"quantization_config": quantization, "device_map": {"": device}}


NOTEWORTHY = 0.01
"""Share of an adapter's update that may be rounded away without a word."""


def merge(
    path: str | Path,
    output: Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> float:
    """Fold an adapter into its model, in memory of the CPU: the folder ``output`` is there whole, or not at all.

    Args:
        path: model folder or hub name, or that of an adapter, which brings its model along.
        output: is not there yet.
        adapter: of ``path``.
        dtype: of what is written; that of the model by default.

    Returns:
        How much of the update the dtype rounds away: see `Backbone.merge_adapter`.

    Raises:
        InputError: as `load`; or there is no adapter.
    """
    backbone = load(  # is shown no clips: no need of torchvision
        path, adapter=adapter, device="cpu", dtype=dtype, trust_remote_code=trust_remote_code, video="frames"
    )
    lost = backbone.merge_adapter()
    unfinished = output.with_name(f".{output.name}.unfinished")  # what a kill may leave
    shutil.rmtree(unfinished, ignore_errors=True)
    backbone.save(unfinished)
    unfinished.rename(output)
    return lost


def rounded_away(lost: float) -> str:
    """What to say of a `merge` that loses a noteworthy share."""
    return f"{lost:.0%} of the adapter's update is rounded away; --dtype float32 keeps it, at twice the size"


def fingerprints(path: str | Path) -> dict[str, str | None]:
    """Fingerprints of ``model`` and ``adapter`` in or behind a folder, without loading it; a hub name for itself."""
    base, adapter = _base_and_adapter(str(path), None)
    return {"model": fingerprint_of(base), "adapter": fingerprint_of(adapter) if adapter else None}


def backbone_class(model_type: str) -> type[Backbone]:
    """The class for a family: the one in the file named after it.

    Raises:
        InputError: there is none. A family that is not known to work would fail late, or train on wrong positions.
    """
    known = plugins.names(__name__)
    if model_type not in known:
        raise InputError(f"models of type {model_type!r} are not supported (those of {', '.join(known)} are)")
    module = plugins.find_module(__name__, model_type)
    return next(c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__)


def _default_device() -> str:
    """This process's own GPU (launchers number them by LOCAL_RANK), or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _base_and_adapter(path: str, adapter: str | Path | None) -> tuple[str, str | Path | None]:
    """Follow an adapter folder to its base model."""
    config = Path(path) / "adapter_config.json"
    if not config.is_file():
        return path, adapter
    if adapter is not None:
        raise InputError("this folder is an adapter already; merge it first (mmalign merge)", file=path)
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]), path
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("does not name the model that the adapter belongs to", file=config) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
