"""One training run from flags to folder: load, train or resume, save, describe."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from mmalign.backbones import Backbone, TrainedOn
from mmalign.forward import Encoder, Engine, PrecomputedReference, RecordDataset
from mmalign.objectives import Objective, needs_reference
from mmalign.records import InputError
from mmalign.training import card, checkpoints, data, identity, memory, reference
from mmalign.training.letting_go import let_go
from mmalign.training.metrics import MetricsFile
from mmalign.training.options import PARTS, Flags, ModelOptions, TrainOptions, parse
from mmalign.training.trainer import PreferenceTrainer


def train(name: str, arguments: Sequence[str] | None = None) -> Path:
    """Train, or go on training, and write the model folder.

    Returns:
        The output folder: a Hugging Face model, or a PEFT adapter.

    Raises:
        InputError: flags, records or media do not fit; or the output folder holds another run.
    """
    given = parse(name, sys.argv[1:] if arguments is None else arguments)
    found = data.of(given)
    output = Path(given.options.output_dir)
    if given.options.estimate_memory:
        say(given.options, expected_memory(given, found))
    elif not run(name, given, found):
        say(given.options, f"{output} holds this run, finished; nothing to do (another output_dir trains again)")
    return output


def run(name: str, given: Flags, found: data.RunData) -> bool:
    """Train from the newest checkpoint on, and write the model folder; nothing of it stays in memory.

    Args:
        name: of the objective.
        found: the records.

    Returns:
        Whether there was anything to do.

    Raises:
        InputError: records or media do not fit; or the output folder holds another run.
    """
    options, output = given.options, Path(given.options.output_dir)
    what = identity.of(name, *given)
    finished = identity.finished(output, what)
    wait()  # the first rank changes what the others have still to read
    if finished and options.resume:
        return False
    if options.resume:
        given = identity.as_begun(output, given)
    else:
        _start_over(output, options)
    say(options, expected_memory(given, found))
    checkpoint = _resume(output, options)
    trainer = _trainer(given, found)
    if found.clips:
        what["model"]["video"] = _shown(trainer.model.backbone)
    if trainer.is_world_process_zero():
        identity.write(output, what, finished=False)
        way = found.curriculum(given.data)
        print(f"{found}\n{f'{way}{chr(10)}' if way else ''}{trainable_table(trainer.model.backbone, options)}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        card.write(output, what, trainer.state.log_history)
        identity.write(output, what, finished=True)
    let_go(trainer)
    del trainer
    gc.collect()  # it refers to itself
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True


def _trainer(given: Flags, found: data.RunData) -> PreferenceTrainer:
    """The model loaded and made ready, and the trainer around it."""
    model, options = given.model, given.options
    transformers.set_seed(options.seed)
    backbone = reference.load(model.model, model, options)
    if found.clips:
        backbone.trained_on = TrainedOn(given.data.frame_choice, _shown(backbone))
    encoder = _encoder(backbone, given)
    datasets = [
        RecordDataset(records, encoder, _precomputed(records, place, encoder, given))
        for place, records in {"": found.records, "-eval": found.held_out}.items()
        if records is not None
    ]
    transformers.set_seed(options.seed)  # loading draws random numbers too, under ZeRO-3; the adapter's are its own
    prepare(backbone, model)
    engine = _engine(backbone, given.objective, model, options)
    transformers.set_seed(options.seed)  # as the adapter, whatever else was loaded
    trainer = PreferenceTrainer(
        engine,
        given.trained,
        shuffle=given.data.shuffle,
        lengths=found.lengths if given.data.group_by_length else None,
        curriculum=found.curriculum(given.data),
        args=options,
        train_dataset=datasets[0],
        eval_dataset=datasets[1] if found.held_out else None,
    )
    trainer.add_callback(MetricsFile(Path(options.output_dir)))
    return trainer


def _shown(backbone: Backbone) -> str:
    """What ``--video`` came to."""
    return "native" if backbone.native_video else "frames"


def _encoder(backbone: Backbone, given: Flags) -> Encoder:
    limits, objective = given.data, given.trained
    prompts = "prompt_logps" in objective.needs
    return Encoder(backbone, tuple(objective.views), limits.max_length, limits.too_long, limits.frame_choice, prompts)


def expected_memory(given: Flags, found: data.RunData) -> str:
    """A table of what the run will hold in memory; nothing is loaded for it."""
    model, options = given.model, given.options
    with reference.not_spread(options):
        backbone = reference.load(model.model, model, options, device="meta")
    prepare(backbone, model)
    dataset = RecordDataset(found.records, _encoder(backbone, given))
    shape = memory.longest(dataset, found.lengths, options.train_batch_size, backbone.can_pack)
    run = memory.run_of(backbone, model, options, reference=needs_reference(given.objective))
    sizes = memory.estimate(backbone, run, shape)
    gpu = options.device.type == "cuda"
    available = torch.cuda.get_device_properties(options.device).total_memory if gpu else None
    return memory.table(sizes, run, shape, available)


def _precomputed(records: data.Selected, place: str, encoder: Encoder, given: Flags) -> PrecomputedReference | None:
    """What the reference says of the records, if that is asked for; ``place`` tells training from held-out records."""
    options = given.options
    if not options.precompute_reference:
        return None
    file = Path(options.reference_cache or Path(options.output_dir) / "reference.jsonl")
    file = file.with_name(f"{file.stem}{place}{file.suffix}")
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = _compares(given.objective)
    return reference.precompute(file, records, encoder, given.model, given.data, options, hidden=hidden)


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


def _start_over(output: Path, options: TrainOptions) -> None:
    """Forget the run in ``output``: what it is, and its checkpoints."""
    if options.process_index == 0 and (output / identity.NAME).is_file():
        for folder in checkpoints.all_of(output):
            shutil.rmtree(folder)
        (output / identity.NAME).unlink()
    wait()


def _resume(output: Path, options: TrainOptions) -> Path | None:
    """The checkpoint to go on from; half-written ones are deleted."""
    if options.process_index == 0:
        for folder in checkpoints.discard_incomplete(output):
            say(options, f"{folder} was not written to its end and is deleted")
    wait()
    checkpoint = checkpoints.newest_complete(output)
    if checkpoint:
        if problem := checkpoints.misfit(checkpoint, bool(options.deepspeed), options.world_size):
            raise InputError(problem, file=checkpoint)
        say(options, f"going on from {checkpoint}")
    return checkpoint


def wait() -> None:
    """For all ranks to get here, so that they find the same files."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def say(options: TrainOptions, text: str) -> None:
    """Print on the first rank."""
    if options.process_index == 0:
        print(text)
