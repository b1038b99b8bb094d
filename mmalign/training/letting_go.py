"""After a training: nothing of it stays in memory, or in the way of the next one in the same process."""

from __future__ import annotations

import os
import sys
from inspect import getclosurevars, isfunction

from transformers import Trainer


def let_go(trainer: Trainer) -> None:
    """Undo what would outlive a trainer; what it holds is freed with the last name for it.

    The process group stays. `TrainingArguments` of the next training set up all else that transformers and accelerate
    keep in globals: devices, precision, and which model is loaded in parts.
    """
    zero3 = trainer.is_deepspeed_enabled and trainer.args.zero3
    trainer.accelerator.free_memory()  # takes DeepSpeed's hooks off
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # accelerate takes it for the wish of whoever comes next
    if zero3:
        _forget_spread_modules()
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:  # else the next training's steps would go on in this one's run
        wandb.finish()


def _forget_spread_modules() -> None:
    """DeepSpeed keeps modules in a list of its own, and as arguments of a method whose answers it remembers."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    for method in filter(isfunction, vars(PartitionedParameterCoordinator).values()):
        for inner in getclosurevars(method).nonlocals.values():
            if hasattr(inner, "cache_clear"):
                inner.cache_clear()
