"""The reference of a training run: another model, a copy, or what one said before (``--precompute_reference``)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign import backbones, runs
from mmalign.backbones import Backbone
from mmalign.forward import Encoder, Precompute, PrecomputedReference, RecordDataset, only_adapter_trains, share_tower
from mmalign.objectives import Objective, needs_reference
from mmalign.records import InputError, RecordFile
from mmalign.training.options import DataOptions, ModelOptions, TrainOptions


def load(path: str, model: ModelOptions, options: TrainOptions, **more: Any) -> Backbone:
    """A model to train or to compare with; ``more`` goes to `backbones.load`.

    Where its own weights are trained without DeepSpeed, which keeps a copy in float32, they are float32: an update of
    1e-5 is nothing to a bfloat16 weight. ``--bf16`` still computes in bfloat16.

    Raises:
        InputError: ``--dtype`` asks for weights that could not be trained, or ``--load_in_4bit`` for some that cannot
            be spread.
    """
    if model.load_in_4bit and options.zero3:
        raise InputError("--load_in_4bit: weights in 4 bits are not spread over processes; say --deepspeed zero2")
    return backbones.load(
        path,
        dtype=_dtype(model, options),
        attn_implementation=model.attn_implementation,
        load_in_4bit=model.load_in_4bit,
        trust_remote_code=model.trust_remote_code,
        video=model.video,
        **{"device": str(options.device), **more},
    )


def _dtype(model: ModelOptions, options: TrainOptions) -> str:
    in_place = not model.lora and not options.deepspeed
    if in_place and model.dtype not in ("auto", "float32"):
        raise InputError(f"--dtype {model.dtype} would round updates away; say --bf16, or train with --lora")
    return "float32" if in_place else model.dtype


def other(backbone: Backbone, objective: Objective, model: ModelOptions, options: TrainOptions) -> Backbone | None:
    """The model to be the reference, where the policy cannot be it too, adapter off or by a copy.

    Args:
        backbone: the policy, prepared for training that has not begun.
    """
    if not needs_reference(objective):
        return None
    if model.reference:
        return load(model.reference, model, options)
    if options.zero3 and not only_adapter_trains(backbone.model):
        return share_tower(backbone, load(model.model, model, options))  # spread weights cannot be copied
    return None


def precompute(
    file: Path,
    records: RecordFile,
    encoder: Encoder,
    model: ModelOptions,
    data: DataOptions,
    options: TrainOptions,
    *,
    hidden: bool,
) -> PrecomputedReference:
    """What the reference says of all records, from ``file``, which is written first where it is not there or not whole.

    To be called before the policy is changed in any way: without ``--reference``, it is the reference itself. Under
    ZeRO-3 every rank loads a whole copy to compute its share with, since ranks have different numbers of batches;
    nothing is trained yet, so there is room.

    Args:
        encoder: of the policy.
        hidden: keep hidden states too; see `mmalign.forward.Precompute`.

    Raises:
        InputError: the file was made for another model, other records or other options, and the message says which; a
            record cannot be encoded; or the ranks do not share the file.
    """
    source, unit_size = model.reference or model.model, options.eval_batch_size
    manifest = {
        "reference": backbones.fingerprints(source),
        "image_processor": type(encoder.backbone.processor.image_processor).__name__,
        "processor": encoder.backbone.processor_fingerprint(),
        "dtype": _dtype(model, options),
        "deepspeed": bool(options.deepspeed) and _precision(options) is not None,
        "bf16": options.bf16,
        "fp16": options.fp16,
        "attention": model.attn_implementation,
        "load_in_4bit": model.load_in_4bit,
        "views": list(encoder.views),
        "hidden_states": hidden,
        "frames": data.frames,
        **{name: value for name in ("fps", "video_pixels") if (value := getattr(data, name)) is not None},
        "max_length": data.max_length,
        "too_long": data.too_long,
    }

    def work(unit: runs.Unit) -> Iterator:
        nonlocal step
        if step is None:
            step = Precompute(_whole(source, encoder, model, options), dataset, hidden, unit_size)
        with _autocast(options):
            yield from step(unit)

    dataset, step = RecordDataset(records, encoder), None
    runs.run(file, records, work, unit_size=unit_size, manifest=manifest, description="reference")
    del step
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if not _appears(file):
        raise InputError("is not complete though all ranks are done: choose a folder that they share", file=file)
    return PrecomputedReference(file, records)


def _appears(file: Path, seconds: int = 60) -> bool:
    """Whether a file that another machine may have written is there; network file systems take their time."""
    for _ in range(seconds):
        if file.name in os.listdir(file.parent):
            return True
        time.sleep(1)
    return False


def _whole(source: str, encoder: Encoder, model: ModelOptions, options: TrainOptions) -> Backbone:
    """The reference on this rank alone, speaking as the policy does, in the precision that it would train in."""
    if not model.reference and not options.zero3:
        reference = encoder.backbone
    else:
        with not_spread(options):
            reference = load(source, model, options)
    if options.deepspeed and _precision(options):  # as DeepSpeed will cast what it trains
        for weight in reference.model.parameters():
            weight.data = weight.data.to(_precision(options)) if weight.is_floating_point() else weight.data
    return encoder.backbone.around(reference.model)


@contextmanager
def not_spread(options: TrainOptions) -> Iterator[None]:
    """Inside, models are loaded whole under ZeRO-3 too."""
    if not options.zero3:
        yield
        return
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(options.hf_deepspeed_config)


def _precision(options: TrainOptions) -> torch.dtype | None:
    """What ``--bf16`` or ``--fp16`` compute in."""
    return torch.bfloat16 if options.bf16 else torch.float16 if options.fp16 else None


def _autocast(options: TrainOptions) -> Any:
    """As the trainer computes: DeepSpeed in the precision of its weights, torch alone by autocast."""
    dtype = None if options.deepspeed else _precision(options)
    return torch.autocast(options.device.type, dtype) if dtype else nullcontext()


def head(backbone: Backbone, model: ModelOptions, options: TrainOptions) -> nn.Module | None:
    """The reference's projection, for divergences from what was precomputed; None where it is the policy's.

    Args:
        backbone: the policy, prepared for training that has not begun.
    """
    if model.reference:
        with not_spread(options):
            return _copied(load(model.reference, model, options).head)
    return None if only_adapter_trains(backbone.model) else _copied(backbone.head)


def _copied(head: nn.Linear) -> nn.Linear:
    """Another module with the same weights, also where they are spread over ranks."""
    with _gathered(head.parameters()), torch.no_grad():
        weights = dict(head.named_parameters())
        device, dtype = head.weight.device, head.weight.dtype
        other = nn.Linear(head.in_features, head.out_features, "bias" in weights, device, dtype)
        for name, weight in other.named_parameters():
            weight.copy_(weights[name])
    return other


@contextmanager
def _gathered(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, weights are whole, also under ZeRO-3."""
    spread = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not spread:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(spread):
        yield
