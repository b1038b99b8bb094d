"""Pairs that a model labels itself, by what its training has made more likely: the data of SPA.

Kim et al., "Spread Preference Annotation: Direct Preference Judgment for Efficient LLM Alignment" (arXiv 2406.04412;
known as Selfie before), its direct preference judgment. docs/builders/selfie.md says where this differs, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mmalign import backbones, runs
from mmalign.backbones import Backbone
from mmalign.builders import BACKBONE, Drop, Unit
from mmalign.builders._pairing import pair_record, pairs_of
from mmalign.builders._sampling import Candidates, Sampling
from mmalign.plugins import check, option
from mmalign.records import Record
from mmalign.rewards import DIGITS, Scored, Scorer, singles
from mmalign.rewards.implicit import ImplicitReward

SCORE = "implicit"


@dataclass(frozen=True)
class Selfie(Sampling):
    """The best and the worst of a model's own responses by its implicit reward (SPA, arXiv 2406.04412).

    The reward is beta * (log model - log reference), summed over a response's tokens: what the training that led from
    the reference to the model has made more likely. Responses that a source brings along are taken as they are.
    """

    reference: str | None = option(None, "Model folder of the reference. None: the model without its adapter.")
    beta: float = option(0.1, "Scale of the reward.")
    per_token: bool = option(False, "The mean over a response's tokens instead of their sum.")
    min_gap: float = option(0.0, "A pair whose rewards lie closer together is dropped.")

    wants: ClassVar[str] = BACKBONE

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "min_gap", self.min_gap >= 0, "0 or more")
        _ = self._reward  # checks its options

    def __call__(self, unit: Unit, model: Backbone) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#selfie``. All responses of a unit are sampled together, and then scored together."""
        scorer = self._scorer(unit, model)  # first: it changes the kernels that samples are written with
        sound: list[Candidates] = []
        for source, candidates in self.candidates(unit, model, use_given=True):
            if isinstance(candidates, Drop):
                yield source, candidates
            else:
                sound.append(candidates)
        scored = iter(scorer.score(single for candidates in sound for single in singles(candidates.listed)))
        for candidates in sound:
            yield candidates.source.id, self._result(candidates, [next(scored) for _ in candidates.responses])

    def check(self, model: Backbone) -> None:
        """A model without a reference is refused before anything is written."""
        self._reward.check(model)

    def inputs(self) -> dict[str, str]:
        """The reference is part of what records depend on."""
        return {"reference": runs.fingerprint(backbones.fingerprints(self.reference))} if self.reference else {}

    @cached_property
    def _reward(self) -> ImplicitReward:
        return ImplicitReward(self.reference, self.beta, self.per_token)

    @cached_property
    def _scorers(self) -> dict[tuple[Backbone, Path, int], Scorer]:
        return {}

    def _scorer(self, unit: Unit, model: Backbone) -> Scorer:
        """Set up once for all units: it holds the reference."""
        key = (model, unit.media_root, unit.batch_size)
        if key not in self._scorers:
            self._scorers[key] = self._reward(
                model, media_root=unit.media_root, batch_size=unit.batch_size, frames=self.choice
            )
        return self._scorers[key]

    def _result(self, candidates: Candidates, scored: list[Scored]) -> list[Record] | Drop:
        if unscored := [each for each in scored if not each.scores]:
            return Drop("unscored", unscored[0].text)
        rewards = [each.scores[SCORE] for each in scored]
        responses = candidates.with_scores(SCORE, rewards)
        pairs = pairs_of(responses, rewards, min_gap=self.min_gap)
        if not pairs:
            return Drop("no_difference", f"rewards from {min(rewards)} to {max(rewards)}")
        [pair] = pairs
        meta = {**candidates.meta, "k": len(responses), "gap": round(pair.gap, DIGITS)}
        chosen, rejected = responses[pair.chosen], responses[pair.rejected]
        return [pair_record(candidates.source, "selfie", chosen, rejected, meta=meta)]
