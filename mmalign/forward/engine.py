"""The one module that training wraps: batch in, token statistics of policy and reference out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.backbones import Backbone, Context
from mmalign.forward.batch import Batch
from mmalign.forward.lora import add_in_place
from mmalign.forward.statistics import LayerMeans, blanks_for, by_view, response_hidden
from mmalign.forward.vocabulary import TILE, Other, Scorer, tiles_for
from mmalign.objectives import TokenStats
from mmalign.records import InputError

Statistics = dict[str, TokenStats]


class Engine(nn.Module):
    """Policy and reference behind one ``forward``, so that DeepSpeed and DDP wrap what really runs.

    The reference is another model if one is given; else the policy with its adapter switched off where every
    trainable weight is in the adapter, and a frozen copy otherwise, taken here, before training moves anything; what
    never trains is not copied but shared.

    Args:
        backbone: the policy.
        reference: whether the objective needs a reference at all; without, none is kept.
        reference_model: a model of the same family to be the reference.
        precomputed: the batches bring along what the reference said: no model is kept to be it.
        reference_head: with ``precomputed`` and ``token_kl``, the reference's projection to the vocabulary; without,
            it is the policy's, adapter switched off.
        token_kl: measure KL(reference || policy) of each response token, with gradient to the policy.
        mixture: c, to score response tokens under the logits c * policy + (1 - c) * reference too.
        layer_means: let the reference say what each of its layers gives at response tokens, averaged over its width.
        prompts: score the text of prompts too.
        entropy: measure the policy's entropy at each response token.
        share_prefix: lay the responses to a prompt beside each other in one row, where the backbone can branch.
        share_tower: run the tower once on a picture for all rows that show it and, where it never trains, for policy
            and reference alike.
        tile: numbers in a tile of logits.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        reference: bool,
        reference_model: nn.Module | None = None,
        precomputed: bool = False,
        reference_head: nn.Module | None = None,
        token_kl: bool = False,
        mixture: float | None = None,
        layer_means: bool = False,
        prompts: bool = False,
        entropy: bool = False,
        share_prefix: bool = True,
        share_tower: bool = True,
        tile: int = TILE,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.policy = backbone.model
        self.config = backbone.hf_model.config  # DeepSpeed reads the hidden size here
        self.needs_reference = (reference or token_kl or mixture is not None or layer_means) and not precomputed
        self.token_kl, self.mixture, self.entropy, self.tile = token_kl, mixture, entropy, tile
        self.layer_means = LayerMeans() if layer_means else None
        self.prompts = prompts
        self.share_prefix = share_prefix and backbone.can_branch
        self.pack = backbone.can_pack
        self.share_tower = share_tower
        self.frozen: nn.Module | None = None
        if self.needs_reference and reference_model is None and not only_adapter_trains(self.policy):
            reference_model = frozen_copy(backbone)
        if self.needs_reference and reference_model is not None:
            self.frozen = reference_model.requires_grad_(False).eval()
        if self.pack:
            for model in {self.policy, self.frozen or self.policy}:
                backbone.around(model).pack()
        add_in_place(self.policy)
        self.reference_head = reference_head.requires_grad_(False) if reference_head is not None else None
        other_head = self._own_reference_head or backbone.head
        self.scorer, self.reference_scorer = Scorer(backbone.head, other_head), Scorer(other_head)
        self.train(self.training)

    def train(self, mode: bool = True) -> Engine:
        """Only what trains has dropout: never the reference, nor a tower that stays as it is."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        for part in frozen_tower(self.backbone):
            part.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Statistics, Statistics | None]:
        """Statistics of the policy (with gradient) and of the reference (without; None where not needed).

        The reference goes first: nothing of the policy's backward pass lies in memory then.
        """
        if not self.share_tower:
            batch = batch.unshared()
        blanks = blanks_for(self.backbone, batch)
        with self._tower_once() as again:
            reference, hidden = None, None
            if batch.known:
                reference, hidden = by_view(batch, {"logps": batch.known["logps"]}), batch.known.get("hidden")
            elif self.needs_reference:
                hidden = self._reference_hidden(batch, blanks)
                again()
                reference = self._statistics_of_reference(batch, hidden)
            compares = self.token_kl or self.mixture is not None
            other = Other(hidden, self._reference_head, self.token_kl, self.mixture) if compares else None
            return self._statistics_of_policy(batch, blanks, other), reference

    @torch.no_grad()
    def reference_statistics(self, batch: Batch) -> Statistics:
        """Statistics of the reference alone."""
        return self._statistics_of_reference(batch, self._reference_hidden(batch, blanks_for(self.backbone, batch)))

    def _statistics_of_policy(self, batch: Batch, blanks: Sequence[Context], other: Other | None) -> Statistics:
        hidden = response_hidden(self.backbone, batch, blanks)
        scores = self._score(self.scorer, hidden, self.backbone.head, batch, entropy=self.entropy, other=other)
        return by_view(batch, scores)

    @torch.no_grad()
    def _reference_hidden(self, batch: Batch, blanks: Sequence[Context]) -> Tensor:
        with self._reference() as backbone:
            if self.layer_means is None:
                return response_hidden(backbone, batch, blanks)
            with self.layer_means.listen(backbone.decoder.layers):
                return response_hidden(backbone, batch, blanks)

    @torch.no_grad()
    def _statistics_of_reference(self, batch: Batch, hidden: Tensor) -> Statistics:
        scores = self._score(self.reference_scorer, hidden, self._reference_head, batch)
        if self.layer_means is not None:
            scores["hidden"] = self.layer_means.at_responses(batch)
        return by_view(batch, scores)

    @property
    def _own_reference_head(self) -> nn.Module | None:
        """The reference's projection, where it is not the policy's."""
        return self.reference_head if self.frozen is None else self.backbone.around(self.frozen).head

    @torch.no_grad()
    def _reference_head(self, hidden: Tensor) -> Tensor:
        if self._own_reference_head is not None:
            return self._own_reference_head(hidden)
        head = self.backbone.head
        with self.policy.disable_adapter() if _has_adapter(head) else nullcontext():
            return head(hidden)

    def _score(self, scorer: Scorer, hidden: Tensor, head: Any, batch: Batch, **wanted: Any) -> dict[str, Tensor]:
        targets = batch.target[batch.mask.bool()]
        vocabulary = self.backbone.decoder.config.vocab_size
        tiles = tiles_for(len(targets), vocabulary, self.tile)
        return scorer(hidden, head, targets, tiles=tiles, **wanted)

    @contextmanager
    def _reference(self) -> Iterator[Backbone]:
        if self.frozen is not None:
            yield self.backbone.around(self.frozen)
            return
        training = self.policy.training
        self.policy.eval()  # a reference has no dropout
        try:
            with self.policy.disable_adapter():
                yield self.backbone
        finally:
            self.train(training)

    @contextmanager
    def _tower_once(self) -> Iterator[Callable[[], None]]:
        """Inside, what the tower gave before a call of what this yields is what it gives after it.

        Policy and reference see the same media.
        """
        parts = frozen_tower(self.backbone) if self.share_tower and self.needs_reference else []
        if self.frozen is not None and parts != self.backbone.around(self.frozen).tower_parts:
            parts = []
        with ExitStack() as stack:
            rewinds = [stack.enter_context(_answers_again(part)) for part in parts]
            yield lambda: [rewind() for rewind in rewinds]

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
        """Recompute the language model's activations in the backward pass.

        Non-reentrant, but for frozen weights under ZeRO-3, which would be spread again by then; DeepSpeed gathers them
        for a reentrant segment. Such a segment has a gradient only if what goes into it has one.
        """
        from transformers.integrations import is_deepspeed_zero3_enabled

        decoder = self.backbone.decoder
        reentrant = is_deepspeed_zero3_enabled() and not all(p.requires_grad for p in decoder.parameters())
        options = {"use_reentrant": reentrant, **(gradient_checkpointing_kwargs or {})}
        self.backbone.embeds_need_grad = options["use_reentrant"]
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def checkpoint_tower(self) -> None:
        """Recompute the tower's activations in the backward pass.

        Raises:
            InputError: weights of the tower that do not train are spread over ranks: they would be so again by then.
        """
        from transformers.integrations import is_deepspeed_zero3_enabled

        if is_deepspeed_zero3_enabled() and not all(p.requires_grad for p in self.backbone.tower.parameters()):
            raise InputError("--tower_checkpointing: not under ZeRO-3 with a tower that trains in part; leave it out")
        self.backbone.tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **_: Any) -> None:
        """The same by the name that transformers gives it since 5.20."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs)


def only_adapter_trains(model: nn.Module) -> bool:
    """Whether switching the adapter off gives the model that training started from."""
    if not hasattr(model, "disable_adapter"):
        return False
    return all("lora_" in name or "modules_to_save" in name for name, p in model.named_parameters() if p.requires_grad)


def frozen_copy(backbone: Backbone) -> nn.Module:
    """A copy of the model that training will not move; weights that never train are the same tensors."""
    shared: dict[int, Any] = {id(weight): weight for weight in backbone.model.parameters() if not weight.requires_grad}
    shared |= {id(part): part for part in frozen_tower(backbone)}
    return copy.deepcopy(backbone.model, shared)


def frozen_tower(backbone: Backbone) -> list[nn.Module]:
    """The parts of the tower, where it stays as it is for policy and reference alike; else none."""
    parts = backbone.tower_parts
    trains = any(_has_adapter(part) or any(p.requires_grad for p in part.parameters()) for part in parts)
    return [] if trains else parts


def share_tower(policy: Backbone, reference: Backbone) -> Backbone:
    """Put the policy's tower, where it never trains, in the place of the same tower of the reference; returns it."""
    names = {id(module): name for name, module in policy.hf_model.named_modules()}
    for part in frozen_tower(policy):
        reference.hf_model.set_submodule(names[id(part)], part)
    return reference


@contextmanager
def _answers_again(module: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, the module answers as it did, call after call, once what this yields has been called."""
    run, before, given, left = module.forward, vars(module).get("forward"), [], []

    def answer(*arguments: Any, **options: Any) -> Any:
        if left:
            return left.pop(0)
        given.append(run(*arguments, **options))
        return given[-1]

    module.forward = answer
    try:
        yield lambda: left.extend(given)
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _has_adapter(module: nn.Module) -> bool:
    return any("lora_" in name or "modules_to_save" in name for name, _ in module.named_parameters())
