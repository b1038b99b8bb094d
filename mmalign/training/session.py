"""One training run from flags to folder: load, train or resume, save, describe."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mmalign import backbones, runs
from mmalign.backbones import Backbone
from mmalign.forward import Encoder, Engine, PrecomputedReference, RecordDataset, Usable, rough_length
from mmalign.media import FrameChoice
from mmalign.objectives import Objective, needs_reference, with_sft, without_end
from mmalign.records import InputError, RecordFile
from mmalign.training import card, checkpoints, memory, reference
from mmalign.training.metrics import MetricsFile
from mmalign.training.options import PARTS, DataOptions, ModelOptions, TrainOptions, parse
from mmalign.training.trainer import PreferenceTrainer

IDENTITY = "training.json"
"""What a run is: written at its start, compared when it is started again."""

_SIGNS_OF_A_MODEL = ("config.json", "adapter_config.json")
_HOW_IT_WAS_SPELLED = ("data",)
"""Parts of the identity for a reader; what they name is in it by its fingerprint."""

_MATHS = (
    "learning_rate",
    "lr_scheduler_type",
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
    "sft_weight",
    "end_of_turn",
    "tower_learning_rate",
    "projector_learning_rate",
    "bf16",
    "fp16",
)


def train(name: str, arguments: Sequence[str] | None = None) -> Path:
    """Train, or go on training, and write the model folder.

    Returns:
        The output folder: a Hugging Face model, or a PEFT adapter.

    Raises:
        InputError: flags, records or media do not fit; or the output folder holds another run.
    """
    objective, model_options, data, options = parse(name, sys.argv[1:] if arguments is None else arguments)
    trained = with_sft(objective if options.end_of_turn else without_end(objective), options.sft_weight)
    output = Path(options.output_dir)
    transformers.set_seed(options.seed)
    records, lengths = _records(data.data, data, objective)
    held_out = _records(data.eval_data, data, objective)[0] if data.eval_data else None
    _say(options, _expected_memory(trained, records, lengths, model_options, data, options))
    if options.estimate_memory:
        return output
    backbone = reference.load(model_options.model, model_options, options)
    identity = _identity(name, objective, model_options, data, options, backbone)
    finished = _finished(output, identity)
    if not options.resume:
        _start_over(output, options)
    elif finished:
        _say(options, f"{output} holds this run, finished; nothing to do (another output_dir trains again)")
        return output
    checkpoint = _resume(output, options)
    encoder = _encoder(backbone, trained, data)
    datasets = [
        RecordDataset(file, encoder, _precomputed(file, place, encoder, objective, model_options, data, options))
        for place, file in {"": records, "-eval": held_out}.items()
        if file is not None
    ]
    transformers.set_seed(options.seed)  # loading draws random numbers too, under ZeRO-3; the adapter's are its own
    prepare(backbone, model_options)
    engine = _engine(backbone, objective, model_options, options)
    transformers.set_seed(options.seed)  # as the adapter, whatever else was loaded
    trainer = PreferenceTrainer(
        engine,
        trained,
        shuffle=data.shuffle,
        lengths=np.array(lengths) if data.group_by_length else None,
        args=options,
        train_dataset=datasets[0],
        eval_dataset=datasets[1] if held_out else None,
    )
    trainer.add_callback(MetricsFile(output))
    if trainer.is_world_process_zero():
        _write_identity(output, {**identity, "finished": False})
        print(f"{len(records)} records\n{trainable_table(backbone, options)}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        card.write(output, identity, trainer.state.log_history)
        _write_identity(output, {**identity, "finished": True})
    return output


def _encoder(backbone: Backbone, objective: Objective, data: DataOptions) -> Encoder:
    prompts = "prompt_logps" in objective.needs
    return Encoder(backbone, tuple(objective.views), data.max_length, data.too_long, FrameChoice(data.frames), prompts)


def _expected_memory(
    objective: Objective,
    records: RecordFile,
    lengths: Sequence[int],
    model: ModelOptions,
    data: DataOptions,
    options: TrainOptions,
) -> str:
    """A table of what the run will hold in memory; nothing is loaded for it."""
    with reference.not_spread(options):
        backbone = reference.load(model.model, model, options, device="meta")
    prepare(backbone, model)
    dataset = RecordDataset(records, _encoder(backbone, objective, data))
    shape = memory.longest(dataset, lengths, options.train_batch_size, backbone.can_pack)
    run = memory.run_of(backbone, model, options, reference=needs_reference(objective))
    sizes = memory.estimate(backbone, run, shape)
    gpu = options.device.type == "cuda"
    available = torch.cuda.get_device_properties(options.device).total_memory if gpu else None
    return memory.table(sizes, run, shape, available)


def _precomputed(
    records: RecordFile,
    place: str,
    encoder: Encoder,
    objective: Objective,
    model: ModelOptions,
    data: DataOptions,
    options: TrainOptions,
) -> PrecomputedReference | None:
    """What the reference says of the records, if that is asked for; ``place`` tells training from held-out records."""
    if not options.precompute_reference:
        return None
    file = Path(options.reference_cache or Path(options.output_dir) / "reference.jsonl")
    file = file.with_name(f"{file.stem}{place}{file.suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    return reference.precompute(file, records, encoder, model, data, options, hidden=_compares(objective))


def prepare(backbone: Backbone, options: ModelOptions) -> None:
    """Freeze the parts that stay and put the adapter on, in place.

    Raises:
        InputError: the model is an adapter already, ``lora_target_modules`` names no layer, or nothing is left to
            train.
    """
    if backbone.model is not backbone.hf_model:
        raise InputError(
            "is an adapter; fold it in first (mmalign merge), and train what comes out", file=options.model
        )
    for name, parameter in backbone.hf_model.named_parameters():
        parameter.requires_grad_(backbone.part_of(name) not in options.freeze and not options.lora)
    if options.lora:
        from peft import LoraConfig, get_peft_model

        targets = options.lora_target_modules
        frozen = [name for name, _ in backbone.hf_model.named_modules() if backbone.part_of(name) in options.freeze]
        config = LoraConfig(
            r=options.lora_r,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules=targets[0] if targets == ["all-linear"] else targets,
            exclude_modules=frozen or None,
            task_type="CAUSAL_LM",
        )
        try:
            backbone.model = get_peft_model(backbone.hf_model, config)
        except ValueError as error:
            raise InputError(f"--lora_target_modules {' '.join(targets)}: {error}") from error
    if not any(p.requires_grad for p in backbone.model.parameters()):
        raise InputError("nothing is left to train; see --freeze and --lora")


def _compares(objective: Objective) -> bool:
    """Whether policy and reference are compared over the whole vocabulary."""
    return bool(objective.needs & {"token_kl", "mixed_logps"})


def _engine(backbone: Backbone, objective: Objective, model: ModelOptions, options: TrainOptions) -> Engine:
    needs, known = objective.needs, options.precompute_reference
    other = None if known else reference.other(backbone, objective, model, options)
    engine = Engine(
        backbone,
        reference=needs_reference(objective),
        reference_model=other.model if other else None,
        precomputed=known,
        reference_head=reference.head(backbone, model, options) if known and _compares(objective) else None,
        token_kl="token_kl" in needs,
        mixture=objective.mixture if "mixed_logps" in needs else None,
        layer_means="ref_hidden" in needs,
        prompts="prompt_logps" in needs,
        entropy=options.log_entropy,
        share_prefix=options.share_prefix,
        share_tower=options.share_tower,
    )
    if options.tower_checkpointing:
        engine.checkpoint_tower()
    return engine


def trainable_table(backbone: Backbone, options: TrainOptions) -> str:
    """Weights of each part, how many of them train, and how fast."""
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in backbone.model.named_parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())
        counts[backbone.part_of(name)][0] += size
        counts[backbone.part_of(name)][1] += size if parameter.requires_grad else 0
    rows = [f"{'part':<10}{'weights':>16}{'trainable':>16}{'learning rate':>16}"]
    for part, (weights, trainable) in counts.items():
        rate = f"{options.rate_of(part):g}" if trainable else "-"
        rows.append(f"{part:<10}{weights:>16,}{trainable:>16,}{rate:>16}")
    return "\n".join(rows)


def _records(path: str, data: DataOptions, objective: Objective) -> tuple[RecordFile, list[int]]:
    """The records of a file, and how long each is, roughly.

    Every one of them is read once: what is wrong is better found now than hours from now.
    """
    records = RecordFile(Path(path), Path(data.media_root) if data.media_root else None)
    if not len(records):
        raise InputError("no records in it", file=path)
    first: dict[str, int] = {}
    lengths = []
    check = Usable(objective, data.ignore, in_order=not data.shuffle)
    for index, record in enumerate(records):
        line = records.line_of(index)
        if first.setdefault(record.id, line) != line:
            raise InputError(f"{record.id!r} stands on line {first[record.id]} too", file=path, line=line, field="id")
        try:
            check(record)
        except InputError as error:
            raise InputError(error.problem, file=path, line=line, field=error.field) from None
        lengths.append(rough_length(record, data.frames))
    check.whole(path)
    return records, lengths


def _identity(
    name: str,
    objective: Objective,
    model: ModelOptions,
    data: DataOptions,
    options: TrainOptions,
    backbone: Backbone,
) -> dict[str, Any]:
    """Everything that decides what the run computes, as far as its mathematics goes."""
    batch = options.train_batch_size * options.gradient_accumulation_steps * options.world_size
    return {
        "objective": name,
        "options": asdict(objective),
        "model": {k: v for k, v in asdict(model).items() if k != "trust_remote_code"},
        "model_fingerprint": backbone.fingerprint(),
        "reference_fingerprint": backbones.fingerprints(model.reference) if model.reference else None,
        "objective_file": _own_file(objective),
        "media_root": str(Path(data.media_root or Path(data.data).parent).resolve()),
        "data": data.data,
        "data_fingerprint": runs.fingerprint(Path(data.data)),
        "shuffle": data.shuffle,
        "group_by_length": data.group_by_length,
        "frames": data.frames,
        "max_length": data.max_length,
        "too_long": data.too_long,
        "batch_size": batch,
        "training": {key: _plain(getattr(options, key)) for key in _MATHS},
    }


def _own_file(objective: Objective) -> str | None:
    """The fingerprint of an objective's file that is not part of this package."""
    if type(objective).__module__.startswith("mmalign.objectives."):
        return None
    return runs.fingerprint(Path(inspect.getfile(type(objective))))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _finished(output: Path, identity: dict[str, Any]) -> bool:
    """Whether ``output`` holds this very run, complete.

    Raises:
        InputError: it holds another one; the message names what differs.
    """
    file = output / IDENTITY
    if not file.is_file():
        if checkpoints.all_of(output) or any((output / name).is_file() for name in _SIGNS_OF_A_MODEL):
            raise InputError("holds a model that was not trained here; give another --output_dir", file=output)
        return False
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        finished = before.pop("finished")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError("is damaged; delete it, or give another --output_dir", file=file) from None
    then, now = _flat(before), _flat(json.loads(json.dumps(identity)))
    changed = [
        f"{key}: {then.get(key)!r} -> {new!r}"
        for key, new in now.items()
        if then.get(key, _DEFAULTS.get(key)) != new and key not in _HOW_IT_WAS_SPELLED
    ]
    if changed:
        advice = "give another --output_dir, or delete this one"
        raise InputError(f"another training run is in this folder ({'; '.join(changed)}); {advice}", file=output)
    return finished


_DEFAULTS = {"training.end_of_turn": True}
"""What runs were that do not say it yet."""


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Nested names joined by dots, so that what differs can be named."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        inner = _flat(value) if isinstance(value, dict) else None
        flat |= {key: value} if inner is None else {f"{key}.{name}": each for name, each in inner.items()}
    return flat


def _start_over(output: Path, options: TrainOptions) -> None:
    """Forget the run in ``output``: what it is, and its checkpoints."""
    if options.process_index == 0 and (output / IDENTITY).is_file():
        for folder in checkpoints.all_of(output):
            shutil.rmtree(folder)
        (output / IDENTITY).unlink()
    _wait()


def _resume(output: Path, options: TrainOptions) -> Path | None:
    """The checkpoint to go on from; half-written ones are deleted."""
    if options.process_index == 0:
        for folder in checkpoints.discard_incomplete(output):
            _say(options, f"{folder} was not written to its end and is deleted")
    _wait()
    checkpoint = checkpoints.newest_complete(output)
    if checkpoint:
        if problem := checkpoints.misfit(checkpoint, bool(options.deepspeed), options.world_size):
            raise InputError(problem, file=checkpoint)
        _say(options, f"going on from {checkpoint}")
    return checkpoint


def _wait() -> None:
    """For all ranks to get here, so that they find the same files."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _write_identity(output: Path, content: dict[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    temporary = output / f".{IDENTITY}"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(output / IDENTITY)


def _say(options: TrainOptions, text: str) -> None:
    if options.process_index == 0:
        print(text)
