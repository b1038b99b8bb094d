"""What a training run will hold in memory, before anything is loaded: ``--estimate_memory``.

The model is built without its weights, and the longest records are encoded. What lies in memory by design (weights,
gradients, the optimiser's state) is counted exactly; activations by what the layers of these families keep for the
backward pass, so that they are about right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmalign.backbones import Backbone
from mmalign.forward import TILE, Batch, RecordDataset, only_adapter_trains
from mmalign.records import InputError
from mmalign.training.options import ModelOptions, TrainOptions

GIB = 2**30
FOUR_BIT = 0.52
"""Bytes of a weight in 4 bits, with its share of the scales."""

LONGEST = 4
"""Records that are looked at, of those that seem to be the longest."""


@dataclass(frozen=True)
class Shape:
    """What one micro-batch of the longest records is: tokens of all rows, of their responses, and of the tower."""

    tokens: int
    responses: int
    patches: int

    @classmethod
    def of(cls, batch: Batch, patch_size: int) -> Shape:
        media = {context.media_key: context.media for context in batch.contexts if context.media}
        names = ("pixel_values", "pixel_values_videos")
        pixels = [inputs[name] for inputs in media.values() for name in names if name in inputs]
        # Families whose pictures keep their form give patches already, the others whole pictures or tiles of them.
        patches = [len(p) if p.dim() == 2 else p.numel() // (3 * patch_size**2) for p in pixels]
        return cls(batch.tokens, int(batch.mask.sum()), sum(patches))


@dataclass(frozen=True)
class Run:
    """What memory depends on besides the model.

    Attributes:
        deepspeed: whether DeepSpeed trains; it keeps float32 copies of what it trains in less.
        zero: stage of DeepSpeed's ZeRO: 1 spreads the optimiser's state, 2 gradients too, 3 weights too.
        processes: that share what is spread.
        bf16: compute in bfloat16.
        reference: another model that is held: ``none`` (adapter off, or precomputed), ``copy`` of what trains, or
            ``model``.
        checkpointing, tower_checkpointing: whose activations are computed again.
        load_in_4bit: whether the language model's linear layers are.
    """

    deepspeed: bool = False
    zero: int = 0
    processes: int = 1
    bf16: bool = False
    reference: str = "none"
    checkpointing: bool = False
    tower_checkpointing: bool = False
    load_in_4bit: bool = False


def longest(dataset: RecordDataset, lengths: Sequence[int], batch_size: int, pack: bool) -> Shape:
    """A micro-batch of the longest records of all; ``lengths``: how long they are, roughly.

    Raises:
        InputError: one of them cannot be encoded.
    """
    encoded = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i])[:LONGEST]:
        record = dataset[index, True]
        if isinstance(record, InputError):
            raise record
        encoded.append(record)
    encoded = [max(encoded, key=lambda record: record.length)] * batch_size
    backbone, views = dataset.encoder.backbone, dataset.encoder.views
    prompts = dataset.encoder.prompts
    batch = Batch.of(encoded, views, backbone.pad_token_id, share=backbone.can_branch, pack=pack, prompts=prompts)
    return Shape.of(batch, patch_size(backbone))


def run_of(backbone: Backbone, model: ModelOptions, options: TrainOptions, *, reference: bool) -> Run:
    """What the flags say, and whether the objective needs a reference."""
    plugin = getattr(options, "deepspeed_plugin", None)
    kept = "none"
    if reference and not options.precompute_reference:
        kept = "model" if model.reference else "none" if only_adapter_trains(backbone.model) else "copy"
    return Run(
        deepspeed=plugin is not None,
        zero=plugin.zero_stage if plugin else 0,
        processes=options.world_size,
        bf16=options.bf16,
        reference=kept,
        checkpointing=options.gradient_checkpointing,
        tower_checkpointing=options.tower_checkpointing,
        load_in_4bit=model.load_in_4bit,
    )


def estimate(backbone: Backbone, run: Run, shape: Shape) -> dict[str, float]:
    """Bytes of each process, by what they are for.

    Args:
        backbone: prepared for training; its weights may be on no device.
        shape: of a micro-batch.
    """
    moves = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    trainable = sum(weight.numel() for weight in moves)
    moving = sum(weight.nbytes for weight in moves)
    held = sum(weight.nbytes for weight in backbone.model.parameters())
    if run.load_in_4bit:
        small = set(backbone.quantizable())
        held -= sum(weight.nbytes - FOUR_BIT * weight.numel() for weight in small)
    low = run.bf16 or any(weight.dtype != torch.float32 for weight in moves)
    mixed = run.deepspeed and low  # DeepSpeed trains 16-bit weights by float32 copies
    if run.bf16 and not run.deepspeed:
        held += sum(2 * weight.numel() for weight in moves if weight.dtype == torch.float32)  # what autocast keeps
    buckets = 2 if run.processes > 1 and not run.deepspeed else 1  # DistributedDataParallel sends copies
    spread = {stage: run.processes if run.zero >= stage else 1 for stage in (1, 2, 3)}
    copies = {"none": 0, "copy": moving, "model": held}[run.reference]
    return {
        "weights": held / spread[3],
        "reference": copies / spread[3],
        "gradients": (2 * trainable if mixed else buckets * moving) / spread[2],
        "optimiser": trainable * (12 if mixed else 8) / spread[1],
        "activations": activations(backbone, run, shape),
        "vocabulary": 3 * min(4 * TILE, 4 * shape.responses * backbone.decoder.config.vocab_size),
    }


def activations(backbone: Backbone, run: Run, shape: Shape) -> float:
    """Bytes that the backward pass of one micro-batch needs, of language model and tower."""
    compute = 2 if run.bf16 else backbone.dtype.itemsize
    layers = _layers(backbone.decoder.config, compute, shape.tokens, run.checkpointing)
    parts = backbone.tower_parts
    if any(w.requires_grad for part in parts for w in part.parameters()):
        layers += _layers(_tower_config(backbone), compute, shape.patches, run.tower_checkpointing)
    return layers


def _layers(config: Any, compute: int, tokens: int, checkpointing: bool) -> float:
    """Of a stack of layers: what each keeps, or its input alone and what one keeps."""
    count = getattr(config, "num_hidden_layers", None) or config.depth
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = getattr(config, "num_attention_heads", None) or config.num_heads
    width = getattr(config, "head_dim", None) or hidden // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    queries = heads * width
    # Two norms keep their float32 input and what they give; attention its turned queries and keys, values, answer and
    # the products of turning; the MLP its gate before and after, the other factor, and the product.
    norms = 2 * (hidden * 4 + 2 * hidden * compute)
    attention = compute * (3 * queries + 2 * keys * width + queries)
    mlp = compute * 4 * inner
    layer = tokens * (norms + attention + mlp)
    return count * tokens * hidden * compute + layer if checkpointing else count * layer


def _tower_config(backbone: Backbone) -> Any:
    return backbone.hf_model.config.vision_config


def patch_size(backbone: Backbone) -> int:
    """Side of a square of pixels that the tower takes for a token."""
    size = _tower_config(backbone).patch_size
    return size if isinstance(size, int) else size[0]


def table(sizes: dict[str, float], run: Run, shape: Shape, available: int | None) -> str:
    """The estimate for a reader, and what to do if it does not fit.

    Args:
        available: bytes of the device, None if that is not known.
    """
    total = sum(sizes.values())
    who = "the process" if run.processes == 1 else f"each of {run.processes} processes"
    rows = [f"expected memory of {who}, for {shape.tokens:,} tokens at once"]
    rows += [f"{name:<12}{size / GIB:>10.2f} GiB" for name, size in {**sizes, "together": total}.items() if size]
    if available is not None and total > 0.95 * available:
        rows.append(f"that is more than the device has, {available / GIB:.1f} GiB: {advice(sizes, run)}")
    return "\n".join(rows)


def advice(sizes: dict[str, float], run: Run) -> str:
    """The flags that would save the most, best first."""
    savings = []
    if run.reference != "none":
        savings.append((sizes["reference"], "--precompute_reference true"))
    if not run.checkpointing:
        savings.append((0.8 * sizes["activations"], "--gradient_checkpointing true"))
    if sizes["optimiser"] > sizes["weights"]:
        savings.append((sizes["optimiser"] + sizes["gradients"], "--lora true"))
    if run.zero < 3 and run.processes > 1 and not run.load_in_4bit:
        savings.append((sizes["weights"], "--deepspeed zero3"))
    if not run.load_in_4bit and run.zero < 3:
        savings.append((0.0, "--load_in_4bit true with --lora true"))
    found = [flag for _, flag in sorted(savings, reverse=True)]
    return ", ".join([*found, "smaller pictures or fewer frames"])
