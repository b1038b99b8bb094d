"""The trainer: transformers.Trainer around the engine, for any objective.

It knows no method. It asks the objective for its views and needs, and reduces its terms: the sum of weight
times value over the true count of the whole optimisation step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from mmalign.forward import FATES, Batch, Engine, RecordDataset
from mmalign.objectives import (
    Metrics,
    Objective,
    State,
    Term,
    both,
    counted_terms,
    initial_state,
    numbers_of,
    ranking_accuracy,
    term_names,
)
from mmalign.records import InputError
from mmalign.training import checkpoints
from mmalign.training.curriculum import Curriculum
from mmalign.training.options import PARTS
from mmalign.training.order import EpochOrder, OrderedLoader


class Sums:
    """Running sums of named numbers, added over ranks when they are read."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, present: Tensor) -> None:
        """Add the present values of a micro-batch; a metric that a record has none of is NaN. Shape: (B,) both."""
        pair = torch.stack([torch.where(present, values, 0).sum(), present.sum()]).double()
        self.totals[name] = self.totals.get(name, 0) + pair.detach()

    def means(self, accelerator: Any) -> dict[str, float]:
        """Mean of each name over all ranks since the start; names that nothing was added to are left out.

        Every rank has to call this, with the same names.
        """
        if not self.totals:
            return {}
        reduced = accelerator.reduce(torch.stack(list(self.totals.values())), "sum").tolist()
        return {name: total / count for name, (total, count) in zip(self.totals, reduced, strict=True) if count}


class Learnt:
    """What an objective remembers from step to step: constant within a step, changed once at its end.

    Args:
        objective: whose state it is; None if it has none.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.state: State | None = initial_state(objective)
        self.seen: list[Metrics] = []
        self.micro_batches = 0

    def state_on(self, device: torch.device) -> State | None:
        """The state, for the objective."""
        return None if self.state is None else {name: value.to(device) for name, value in self.state.items()}

    def begin(self, micro_batches: int) -> None:
        """A step of so many micro-batches begins."""
        self.seen, self.micro_batches = [], micro_batches

    def add(self, metrics: Metrics, counted: Tensor, accelerator: Any) -> None:
        """The metrics of one micro-batch, fillers among them; the last of a step moves the state on every rank.

        Shape: each metric and counted (B,).
        """
        if self.state is None:
            return
        self.seen.append({name: torch.where(counted, values, float("nan")) for name, values in metrics.items()})
        if len(self.seen) < self.micro_batches:
            return
        own = torch.stack([torch.stack(list(micro_batch.values())) for micro_batch in self.seen])
        # Ranks hold neighbouring records of each micro-batch in turn, so this is the order of the records.
        every = accelerator.gather(own[None]).permute(2, 1, 0, 3).flatten(1).cpu()
        seen = {name: values[~values.isnan()] for name, values in zip(metrics, every, strict=True)}
        self.state = self.objective.next_state(self.state, seen)


class PreferenceTrainer(Trainer):
    """Trains an `Engine` with an objective.

    Args:
        engine: policy and reference.
        objective: any objective of `mmalign.objectives`.
        train_dataset, eval_dataset: encoded records.
        shuffle: draw a new order each epoch.
        lengths: of the training records, roughly, if those of like length are to share a step.
        curriculum: the way through them, if there is one; with ``shuffle``.
        All else goes to transformers.Trainer.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        *,
        shuffle: bool = True,
        lengths: np.ndarray | None = None,
        curriculum: Curriculum | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model=engine, callbacks=[LogBeforeSave()], **options)
        self.objective = objective
        self.shuffle = shuffle
        self.lengths = lengths
        self.curriculum = curriculum
        self.learnt = Learnt(objective)
        self._terms = term_names(objective)
        self._announced: list[dict[str, Tensor]] = []
        self._names: list[str] | None = None
        self.window = Sums()
        self.window_tokens = 0
        self.fates = dict.fromkeys(FATES, 0)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the true counts itself

    # ---- data --------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        seed = self.args.seed if self.shuffle else None
        how = {"lengths": self.lengths, "curriculum": self.curriculum}
        return self._loader(self.train_dataset, self.args.train_batch_size, seed, **how)

    def _loader(self, dataset: RecordDataset, batch_size: int, seed: int | None, **how: Any) -> DataLoader:
        """Not handed to accelerate, which would deal records out by its own rules; ``how`` is `EpochOrder`'s."""
        rank, ranks = self.args.process_index, self.args.world_size
        step_size = batch_size * ranks * self.args.gradient_accumulation_steps
        order = EpochOrder(len(dataset), batch_size, rank, ranks, seed, step_size=step_size, **how)
        return OrderedLoader(
            dataset,
            batch_sampler=order,
            collate_fn=self._collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    def _collate(self, records: list) -> Batch | InputError:
        error = next((record for record in records if isinstance(record, InputError)), None)
        if error is not None:
            return error
        engine = self.model
        return Batch.of(
            records,
            self.objective.views,
            engine.backbone.pad_token_id,
            share=engine.share_prefix,
            pack=engine.pack,
            numbers=numbers_of(self.objective),
            prompts=engine.prompts,
        )

    @staticmethod
    def _usable(batch: Batch | InputError) -> Batch:
        if isinstance(batch, InputError):
            raise batch
        return batch

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        return inputs.to(self.args.device)

    def floating_point_ops(self, inputs: Batch) -> int:
        return 0  # transformers' estimate is for one row of plain text

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Parts of the model may have learning rates of their own."""
        if self.optimizer is None and any(self.args.rate_of(part) != self.args.learning_rate for part in PARTS):
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(self._groups(), **options)
        return super().create_optimizer()

    def _groups(self) -> list[dict[str, Any]]:
        """Trainable weights by part, and by whether they decay."""
        decay, groups = set(self.get_decay_parameter_names(self.model)), {}
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                groups.setdefault((self.model.backbone.part_of(name), name in decay), []).append(weight)
        return [
            {
                "params": weights,
                "lr": self.args.rate_of(part),
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for (part, decays), weights in groups.items()
        ]

    # ---- the step ----------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, dict]:
        """The micro-batches of one optimisation step, and how many records each term counts in all of it.

        None where the last step is done: a run killed while its model was being written resumes there, and Trainer
        looks for the end of the training only after one more step.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], {}
        self._announced = []
        batches = [self._usable(batch) for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts: dict[str, Tensor] = {}
        for batch in batches:
            announced = self._counted(batch)
            if list(announced) != self._terms:
                raise InputError(f"terms differ from batch to batch: {', '.join(announced)}; {', '.join(self._terms)}")
            self._announced.append(announced)
            for name, present in announced.items():
                counts[name] = counts.get(name, 0) + present.sum().double()
        reduced = self.accelerator.reduce(torch.stack(list(counts.values())).to(device), "sum")
        self.learnt.begin(len(batches))
        return batches, dict(zip(counts, reduced, strict=True))

    def _counted(self, batch: Batch) -> dict[str, Tensor]:
        """Which records each term counts, fillers left out. Shape of each: (B,)."""
        counted = batch.counted.cpu()
        views = {
            view: (index >= 0).cpu() & counted.view(-1, *[1] * (index.dim() - 1)) for view, index in batch.views.items()
        }
        return counted_terms(self.objective, views, {name: values.cpu() for name, values in batch.numbers.items()})

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: dict | None = None
    ) -> Tensor:
        """This micro-batch's share of the step's loss.

        Multiplied by the number of ranks, since gradients are averaged over them and the counts are global.
        """
        policy, reference = model(inputs)
        terms, metrics = self.objective(policy, reference, inputs.numbers, self.learnt.state_on(self.args.device))
        self._check_names([*terms, *metrics])
        self._check_presence(terms, inputs)
        loss = torch.zeros((), device=inputs.mask.device)
        for name, term in terms.items():
            present = term.present & inputs.counted
            values = torch.where(present, term.values * inputs.numbers["weight"], 0)
            loss = loss + values.sum() / num_items_in_batch[name].clamp(min=1)
        if not loss.isfinite():
            raise InputError(f"loss is {loss.item()} at step {self.state.global_step + 1}; lower the learning rate")
        self._observe(self.window, inputs, policy, terms, metrics)
        if self.curriculum is not None:
            self.window.add("curriculum/difficulty", inputs.numbers["difficulty"], inputs.counted)
        self.learnt.add(metrics, inputs.counted, self.accelerator)
        self.window_tokens += inputs.tokens
        for fate, count in inputs.fates.items():
            self.fates[fate] += count
        return loss * self.args.world_size

    def _check_names(self, names: list[str]) -> None:
        """Raise InputError unless terms and metrics go by the same names as ever: ranks add them up by their order."""
        self._names = self._names or names
        if names != self._names:
            other = ", ".join(sorted({*names} ^ {*self._names})) or "their order"
            raise InputError(f"an objective has the same terms and metrics in every batch; this one does not: {other}")

    def _check_presence(self, terms: Mapping[str, Term], batch: Batch) -> None:
        """Raise InputError unless the terms count the records that they said they would, before the model ran."""
        announced = self._announced.pop(0)
        for name, term in terms.items():
            if name not in announced or not torch.equal((term.present & batch.counted).cpu(), announced[name]):
                raise InputError(
                    f"the term {name} does not count the records that it counted before the model ran: what is present "
                    "must follow from views and numbers, not from log-probabilities (see mmalign.objectives.Term)"
                )

    def _observe(self, sums: Sums, batch: Batch, policy: Mapping, terms: Mapping, metrics: Mapping) -> None:
        for name, term in terms.items():
            sums.add(f"loss/{name}", term.values.detach() * batch.numbers["weight"], term.present & batch.counted)
        for name, values in metrics.items():
            sums.add(name, values, batch.counted & ~values.isnan())
        if {"chosen", "rejected"} <= policy.keys() and "rankings/accuracies" not in metrics:
            right = ranking_accuracy(policy["chosen"].sum(), policy["rejected"].sum())
            sums.add("rankings/accuracies", right, both(policy))
        for view, stats in policy.items():
            if stats.logps.dim() == 2:
                sums.add(f"logps/{view}", stats.sum().detach(), stats.present)
                if stats.entropy is not None:
                    sums.add(f"entropy/{view}", stats.entropy.sum(-1) / stats.mask.sum(-1).clamp(min=1), stats.present)

    # ---- logging and evaluation --------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the window's means to a training log line; every rank comes here at the same step."""
        if "loss" in logs:
            logs.update(self.window.means(self.accelerator))
            self.window = Sums()
            tokens = torch.tensor(self.window_tokens, device=self.args.device)
            self.state.num_input_tokens_seen += int(self.accelerator.reduce(tokens, "sum"))
            logs["tokens"] = self.state.num_input_tokens_seen
            self.window_tokens = 0
            counts = torch.tensor(list(self.fates.values()), device=self.args.device)
            for fate, count in zip(self.fates, self.accelerator.reduce(counts, "sum").tolist(), strict=True):
                if count:
                    logs[f"records/{fate}"] = count
            self.fates = dict.fromkeys(FATES, 0)
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss and metrics over held-out records, each counted once on any number of ranks."""
        dataset = eval_dataset or self.eval_dataset
        model = self.model_wrapped
        training, sums = model.training, Sums()
        model.eval()
        for batch in self._loader(dataset, self.args.eval_batch_size, seed=None):
            batch = self._prepare_inputs(self._usable(batch))
            policy, reference = model(batch)
            terms, metrics = self.objective(policy, reference, batch.numbers, self.learnt.state_on(self.args.device))
            self._observe(sums, batch, policy, terms, metrics)
        model.train(training)
        means = sums.means(self.accelerator)
        loss = math.fsum(value for name, value in means.items() if name.startswith("loss/"))
        result = {f"{metric_key_prefix}_{name}": value for name, value in {"loss": loss, **means}.items()}
        self.log(dict(result))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, result)
        return result

    # ---- saving and resuming -----------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the policy as a plain Hugging Face (or PEFT) folder: no prefix, no reference."""
        state = self._policy_state()
        if self.args.should_save:
            self.model.backbone.save(output_dir or self.args.output_dir, state_dict=state)
        self.accelerator.wait_for_everyone()

    def _policy_state(self) -> dict[str, Tensor]:
        if not self.is_deepspeed_enabled:
            return self.model.policy.state_dict()
        state = self.accelerator.get_state_dict(self.deepspeed)  # gathers what ZeRO-3 sharded
        prefix = "policy."
        return {name.removeprefix(prefix): value for name, value in (state or {}).items() if name.startswith(prefix)}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As Trainer does, but a DeepSpeed checkpoint leaves out what never changes."""
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer does, and what the objective had learnt."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint and self.learnt.state is not None:
            file = Path(checkpoint) / checkpoints.LEARNT
            if not file.is_file():
                raise InputError("is missing: what the objective had learnt; delete the checkpoint", file=file)
            self.learnt.state = torch.load(file, map_location="cpu", weights_only=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, then mark as complete, then delete old ones: a kill at any moment leaves a complete one."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if not self.is_deepspeed_enabled and self.args.should_save:
            torch.save(self.model.trainable_state(), folder / checkpoints.WEIGHTS)
        if self.learnt.state is not None and self.args.should_save:
            torch.save(self.learnt.state, folder / checkpoints.LEARNT)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.mark_complete(folder)
            checkpoints.rotate(Path(self.args.output_dir), limit, keep=self.state.best_model_checkpoint)

    def _load_best_model(self) -> None:
        """Trainer looks for whole models; a checkpoint here holds the trainable weights."""
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Without DeepSpeed, which loads its own: put the trainable weights back."""
        file = Path(resume_from_checkpoint) / checkpoints.WEIGHTS
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.model.load_state_dict({f"policy.{name}": value for name, value in state.items()})


class LogBeforeSave(TrainerCallback):
    """Log whenever a checkpoint is written.

    A resumed run starts with empty windows. If checkpoints and log lines fell on different steps, its first
    line would be a mean over fewer steps than that of a run never interrupted.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end
