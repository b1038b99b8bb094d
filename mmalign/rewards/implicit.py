"""Implicit reward: what training has made more likely than it was.

Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), section 5: a policy that was trained from a
reference is the optimum for the reward beta * log(policy / reference), up to a term that all responses to a prompt
share. So it orders the responses to one prompt; those to different prompts it does not compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from mmalign import backbones
from mmalign.backbones import Backbone
from mmalign.forward import Batch, EncodedRecord, Encoder, Engine, only_adapter_trains
from mmalign.media import FRAMES, FrameChoice
from mmalign.plugins import option
from mmalign.records import InputError, Record, Response
from mmalign.rewards import DIGITS, Scored

VIEWS = ("responses",)


@dataclass(frozen=True)
class ImplicitReward:
    """beta * (log policy - log reference) of the chosen response; arXiv 2305.18290, section 5.

    Score ``implicit``. The policy is the model it is called with, a `Backbone` that is not being trained; the reference
    is another model, or the same with its adapter switched off. Neighbouring records with the same prompt and media are
    read as one: prompt and pictures once, the responses beside each other.
    """

    reference: str | None = option(None, "Model folder of the reference. None: the model without its adapter.")
    beta: float = option(0.1, "Scale of the reward.")
    per_token: bool = option(False, "The mean over a response's tokens instead of their sum.")

    pairwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise InputError(f"must be above 0, got {self.beta}", field="beta")

    def __call__(
        self, model: Backbone, *, media_root: str | Path, batch_size: int = 8, frames: FrameChoice = FRAMES
    ) -> _ImplicitScorer:
        """Set it up: the reference is loaded here.

        Raises:
            InputError: there is no reference, or one that speaks another language than the policy.
        """
        engine = Engine(model, reference=True, reference_model=self._reference_model(model)).eval()
        return _ImplicitScorer(self, engine, Encoder(model, VIEWS, frames=frames), Path(media_root), batch_size)

    def check(self, policy: Backbone) -> None:
        """Refuse, before anything is loaded, a policy that has no reference.

        Raises:
            InputError: none is named, and the policy is no adapter.
        """
        if self.reference is None and not only_adapter_trains(policy.model):
            raise InputError(
                "is missing: the model is not an adapter that could be switched off, so say which model it was "
                "trained from",
                field="reference",
            )

    def _reference_model(self, policy: Backbone) -> nn.Module | None:
        """None where it is the policy with its adapter off."""
        self.check(policy)
        if self.reference is None:
            return None
        reference = backbones.load(
            self.reference,
            dtype=str(policy.dtype).removeprefix("torch."),
            attn_implementation="sdpa" if policy.can_pack else policy.attention,
            device=str(policy.device),
        )
        if type(reference) is not type(policy) or reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise InputError(
                f"{self.reference} has another architecture or vocabulary than the model: their log-probabilities "
                "cannot be compared",
                field="reference",
            )
        return reference.model


@dataclass(frozen=True, eq=False)
class _ImplicitScorer:
    """See `mmalign.rewards.Scorer`."""

    options: ImplicitReward
    engine: Engine
    encoder: Encoder
    media_root: Path
    batch_size: int

    def score(self, records: Iterable[Record]) -> Iterator[Scored]:
        """Scores ``implicit``; the text has both log-probabilities and the number of tokens."""
        for groups in _batches(_groups(records, self.batch_size), self.batch_size):
            yield from self._of_batch(groups)

    def _of_batch(self, groups: Sequence[list[Record]]) -> Iterator[Scored]:
        encoded = [one for group in groups for one in self._encoded(group)]
        sound = [both for both in encoded if isinstance(both[1], EncodedRecord)]
        found = iter(self._scores([each for _, each in sound]) if sound else ())
        for group, each in encoded:
            if isinstance(each, InputError):
                yield Scored(group[0].id, {}, str(each))
                continue
            for record, (reward, text) in zip(group, next(found), strict=True):
                yield Scored(record.id, {"implicit": reward}, text)

    def _encoded(self, group: list[Record]) -> list[tuple[list[Record], EncodedRecord | InputError]]:
        """The group as one record; where that fails, each of its records by itself."""
        first = group[0]
        answers = tuple(Response(record.chosen[0]) for record in group)
        whole = Record(first.id, first.prompt, responses=answers, images=first.images, videos=first.videos)
        try:
            return [(group, self.encoder(whole, self.media_root))]
        except InputError as error:
            if len(group) == 1:
                return [(group, error)]
            return [one for record in group for one in self._encoded([record])]

    @torch.no_grad()
    def _scores(self, encoded: Sequence[EncodedRecord]) -> list[list[tuple[float, str]]]:
        """Reward and text of each response of each record."""
        engine, backbone = self.engine, self.engine.backbone
        batch = Batch.of(encoded, VIEWS, backbone.pad_token_id, share=engine.share_prefix, pack=engine.pack)
        policy, reference = (stats[VIEWS[0]] for stats in engine(batch.to(backbone.device)))
        sums = (values.double().sum(-1) for values in (policy.logps, reference.logps, policy.mask))
        numbers = torch.stack(list(sums), dim=-1).tolist()  # (records, responses of the longest list, 3)
        return [
            [self._reward(*each) for each in several[: len(record.responses[VIEWS[0]])]]
            for record, several in zip(encoded, numbers, strict=True)
        ]

    def _reward(self, policy: float, reference: float, tokens: float) -> tuple[float, str]:
        ratio = (policy - reference) / (tokens if self.options.per_token else 1)
        reward = round(self.options.beta * ratio, DIGITS) + 0.0  # no -0.0
        return reward, f"log policy {policy:.3f}, log reference {reference:.3f}, {tokens:.0f} tokens"


def _groups(records: Iterable[Record], most: int) -> Iterator[list[Record]]:
    """Neighbours with the same prompt and media, at most so many together."""
    group: list[Record] = []
    for record in records:
        if not record.chosen:
            raise InputError(f"{record.id} has none, and it is what is scored", field="chosen")
        same = group and all(getattr(record, n) == getattr(group[0], n) for n in ("prompt", "images", "videos"))
        if group and (not same or len(group) == most):
            yield group
            group = []
        group.append(record)
    if group:
        yield group


def _batches(groups: Iterable[list[Record]], most: int) -> Iterator[list[list[Record]]]:
    """Groups with at most so many records together."""
    batch: list[list[Record]] = []
    for group in groups:
        if batch and sum(map(len, batch)) + len(group) > most:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch
