"""The same DPO run by TRL's DPOTrainer and by mmalign: one model, one set of records, numbers of every step.

Both sides get a loaded model and its processor, train LoRA or all weights but the tower's, in the order of the records,
and report for each step the time, the loss, and the log-probabilities of policy and reference.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign import objectives
from mmalign.backbones import Backbone
from mmalign.forward import Encoder, Engine, RecordDataset
from mmalign.records import Record, RecordFile, text_of
from mmalign.training.options import ModelOptions, TrainOptions
from mmalign.training.session import prepare
from mmalign.training.trainer import PreferenceTrainer

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}


@dataclass
class Run:
    """What one side did.

    Attributes:
        seconds: of each optimisation step, from batch to updated weights.
        losses: of each step.
        logps: policy and reference, chosen and rejected, summed over the response, by record in the order seen.
        vision: pictures through the tower (patches, in families that cut pictures up first).
        tokens: tokens through the language model, padding included.
        peak: bytes above what was resident when training began.
    """

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    logps: dict[str, list[float]] = field(default_factory=dict)
    vision: int = 0
    tokens: int = 0
    peak: int = 0

    def note(self, **values: torch.Tensor) -> None:
        """Add one micro-batch's log-probabilities."""
        for name, value in values.items():
            self.logps.setdefault(name, []).extend(value.detach().float().tolist())


@dataclass(frozen=True)
class Plan:
    """What both sides do.

    Attributes:
        data: the record file, media beside it.
        lora: train an adapter on language model and projector; else their weights.
        steps, batch_size, learning_rate, beta: of the training.
        bf16: compute in bfloat16 by autocast.
        checkpointing: recompute activations.
    """

    data: Path
    output: Path
    lora: bool = True
    steps: int = 5
    batch_size: int = 1
    learning_rate: float = 1e-4
    beta: float = 0.1
    bf16: bool = False
    checkpointing: bool = False

    def arguments(self) -> dict[str, Any]:
        """TrainingArguments of both."""
        return {
            "output_dir": str(self.output),
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "logging_steps": 10**6,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": self.bf16,
            "gradient_checkpointing": self.checkpointing,
            "seed": 0,
        }


def run_mmalign(backbone: Backbone, plan: Plan, objective: Any = None, **engine: Any) -> Run:
    """Train with mmalign; ``engine``: further options of `Engine`."""
    objective = objective or objectives.load("dpo", beta=plan.beta)
    prepare(backbone, ModelOptions(model="", lora=plan.lora, **_lora_flags()))
    set_adapter(backbone.model)
    run = Run()
    needs = objective.needs
    options = {"reference": "reference" in needs, "token_kl": "token_kl" in needs, **engine}
    args = TrainOptions(**plan.arguments())
    trainer = PreferenceTrainer(
        Engine(backbone, **options),
        objective,
        shuffle=False,
        args=args,
        train_dataset=RecordDataset(RecordFile(plan.data), Encoder(backbone, tuple(objective.views))),
    )

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        policy, reference = output
        run.note(**{f"policy_{view}": stats.sum() for view, stats in policy.items()})
        run.note(**{f"reference_{view}": stats.sum() for view, stats in reference.items()})

    trainer.model.register_forward_hook(note)
    frozen = trainer.model.frozen
    _train(trainer, [backbone, *([backbone.around(frozen)] if frozen is not None else [])], run)
    return run


def run_trl(backbone: Backbone, plan: Plan) -> Run:
    """Train with TRL at its fastest settings: no checkpointing unless asked for, nothing truncated."""
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    model = backbone.hf_model
    config = None
    if plan.lora:
        frozen = [name for name, _ in model.named_modules() if backbone.part_of(name) == "tower"]
        config = LoraConfig(target_modules="all-linear", exclude_modules=frozen, task_type="CAUSAL_LM", **LORA)
    for name, weight in model.named_parameters():
        weight.requires_grad_(backbone.part_of(name) != "tower")
    run = Run()
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(beta=plan.beta, max_length=None, train_sampling_strategy="sequential", **plan.arguments()),
        train_dataset=_trl_rows(plan.data),
        processing_class=backbone.processor,
        peft_config=config,
    )
    set_adapter(trainer.model)
    compute = trainer._compute_loss

    def noted(*arguments: Any, **options: Any) -> torch.Tensor:
        loss = compute(*arguments, **options)
        seen = {name: values[-1] for name, values in trainer._metrics["train"].items() if values}
        for side in ("chosen", "rejected"):
            policy = seen[f"logps/{side}"]
            reference = policy - seen[f"rewards/{side}"] / plan.beta
            run.note(**{f"policy_{side}": torch.tensor([policy]), f"reference_{side}": torch.tensor([reference])})
        return loss

    trainer._compute_loss = noted
    reference = trainer.ref_model
    _train(trainer, [backbone, *([backbone.around(reference)] if reference is not None else [])], run)
    return run


def set_adapter(model: nn.Module) -> None:
    """First factors of an adapter from one seed, layer by layer, however it was made."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if "lora_A" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)


def _lora_flags() -> dict[str, Any]:
    return {"lora_r": LORA["r"], "lora_alpha": LORA["lora_alpha"], "lora_dropout": LORA["lora_dropout"]}


def _trl_rows(path: Path) -> Any:
    """The records as TRL wants them: decoded pictures, messages without placeholders."""
    from datasets import Dataset, Image, List

    records = RecordFile(path)
    rows = [_trl_row(record, records) for record in records]
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def _trl_row(record: Record, records: RecordFile) -> dict[str, Any]:
    def message(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return {
        "images": [{"path": str(path)} for path in records.media(record)],
        "prompt": message("user", text_of(record.prompt)),
        "chosen": message("assistant", text_of(record.chosen)),
        "rejected": message("assistant", text_of(record.rejected)),
    }


def _train(trainer: Any, backbones: list[Backbone], run: Run) -> None:
    """Train, with the clock around each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            settle()
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            settle()
            run.seconds.append(time.perf_counter() - self.start)

    step = trainer.training_step

    def noted(*arguments: Any, **options: Any) -> torch.Tensor:
        loss = step(*arguments, **options)
        run.losses.append(float(loss))
        return loss

    trainer.training_step = noted
    trainer.add_callback(Clock())
    _count(backbones, run)
    before = reset_peak()
    trainer.train()
    run.peak = peak_bytes() - before


def _count(backbones: list[Backbone], run: Run) -> None:
    """Count what goes through towers and language models."""
    for backbone in backbones:
        first = backbone.tower_parts[0]
        if not hasattr(first.forward, "counted"):  # policy and reference may share it
            first.forward = _counting(first.forward, run, "vision", lambda arguments, _: len(arguments[0]))
        decoder = backbone.decoder
        decoder.forward = _counting(decoder.forward, run, "tokens", lambda _, options: _places(options))


def _places(options: dict) -> int:
    return options["inputs_embeds"].shape[:2].numel()


def _counting(forward: Any, run: Run, name: str, size: Any) -> Any:
    def counted(*arguments: Any, **options: Any) -> Any:
        setattr(run, name, getattr(run, name) + size(arguments, options))
        return forward(*arguments, **options)

    counted.counted = True
    return counted


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> int:
    """Forget the peak of memory; bytes resident now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_bytes() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM")


def _status(name: str) -> int:
    """A line of this process's /proc entry, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
