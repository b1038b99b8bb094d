"""The one module that training wraps: batch in, token statistics of policy and reference out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.backbones import Backbone
from mmalign.forward.batch import Batch
from mmalign.forward.statistics import view_statistics
from mmalign.objectives import TokenStats

Statistics = dict[str, TokenStats]


class Engine(nn.Module):
    """Policy and reference behind one ``forward``, so that DeepSpeed and DDP wrap what really runs.

    The reference is another model if one is given; else the policy with its adapter switched off where every
    trainable weight is in the adapter, and a frozen copy otherwise, taken here, before training moves anything.

    Args:
        backbone: the policy.
        reference: whether the objective needs a reference at all; without, none is kept.
        reference_model: a model of the same family to be the reference.
    """

    def __init__(self, backbone: Backbone, *, reference: bool, reference_model: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.policy = backbone.model
        self.config = backbone.hf_model.config  # DeepSpeed reads the hidden size here
        self.needs_reference = reference
        self.frozen: nn.Module | None = None
        if reference and reference_model is None and not only_adapter_trains(self.policy):
            reference_model = copy.deepcopy(self.policy)
        if reference and reference_model is not None:
            self.frozen = reference_model.requires_grad_(False).eval()

    def forward(self, batch: Batch) -> tuple[Statistics, Statistics | None]:
        """Statistics of the policy (with gradient) and of the reference (without; None where not needed)."""
        policy = view_statistics(self.backbone, batch)
        return policy, self.reference_statistics(batch) if self.needs_reference else None

    @torch.no_grad()
    def reference_statistics(self, batch: Batch) -> Statistics:
        """Statistics of the reference alone."""
        with self._reference() as backbone:
            return view_statistics(backbone, batch)

    @contextmanager
    def _reference(self) -> Iterator[Backbone]:
        backbone = copy.copy(self.backbone)
        if self.frozen is not None:
            backbone.model = self.frozen.eval()  # train() on the engine reaches it too
            yield backbone
            return
        training = self.policy.training
        self.policy.eval()  # a reference has no dropout
        try:
            with self.policy.disable_adapter():
                yield backbone
        finally:
            self.policy.train(training)

    def trainable_state(self) -> dict[str, Tensor]:
        """Trainable weights by name: all that a checkpoint has to hold."""
        return {name: p.detach() for name, p in self.policy.named_parameters() if p.requires_grad}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint, which holds the trainable weights; the frozen ones came with the model.

        Raises:
            KeyError: a trainable weight is missing, or a weight is there that the module does not know.
        """
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        missing = trainable - set(state_dict)
        unknown = set(state_dict) - set(self.state_dict())
        if strict and (missing or unknown):
            raise KeyError(f"checkpoint does not fit: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **_: Any) -> None:
        """Recompute activations in the backward pass.

        Non-reentrant, since a weight that two reentrant segments use is reduced twice by DeepSpeed.
        """
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        self.backbone.hf_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **_: Any) -> None:
        """The same by the name that transformers gives it since 5.20."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs)


def only_adapter_trains(model: nn.Module) -> bool:
    """Whether switching the adapter off gives the model that training started from."""
    if not hasattr(model, "disable_adapter"):
        return False
    return all("lora_" in name or "modules_to_save" in name for name, p in model.named_parameters() if p.requires_grad)
