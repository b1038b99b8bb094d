"""Reward-Augmented Data: each scored pair becomes two that ask for either score.

Zhang et al., "Reward-Augmented Data Enhances Direct Preference Alignment of LLMs" (arXiv 2410.08067). Asked for the
score of the chosen answer, the pair stays as it is; asked for the score of the rejected one, that one is the better
answer, and the sides swap. A good rejected answer is then not unlearnt, and the best score can be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from mmalign.builders import NOTHING, Drop, Unit
from mmalign.plugins import option
from mmalign.records import InputError, Messages, Record

PLACE = "{score}"
LOWEST, HIGHEST = 1.0, 10.0
"""What ``score_min`` and ``score_max`` become."""

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class RewardAugment:
    """Two pairs of one: a system message asks for the score of the chosen answer, or for that of the rejected one.

    Where it asks for the score of the rejected one, the sides swap (arXiv 2410.08067).
    """

    score: str = option("reward", "Name of the score, in chosen_scores and rejected_scores.")
    system: str = option(f"Give an answer that is rated {PLACE}. Higher is better.", f"What is asked; {PLACE} in it.")
    score_min: float | None = option(None, "The lowest score there is: to rescale to 1-10, with score_max.")
    score_max: float | None = option(None, "The highest score there is, which becomes 10.")
    decimals: int = option(2, "Of a score as it is asked for; 7.00 is 7.")

    wants: ClassVar[str] = NOTHING

    def __post_init__(self) -> None:
        if PLACE not in self.system:
            raise InputError(f"must have {PLACE} in it, got {self.system!r}", field="system")
        if (self.score_min is None) != (self.score_max is None):
            raise InputError("give score_min and score_max, or neither", field="score_min")
        if self.score_min is not None and not self.score_min < self.score_max:
            raise InputError(f"must be below score_max {self.score_max}, got {self.score_min}", field="score_min")
        if not 0 <= self.decimals <= 12:
            raise InputError(f"must be from 0 to 12, got {self.decimals}", field="decimals")

    def __call__(self, unit: Unit, model: None) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#chosen`` and ``SOURCE#rejected``: whose score is asked for."""
        for record in unit.items:
            yield record.id, self._of(record)

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        return f"asks for the score of {record.meta['target_of']}"

    def _of(self, source: Record) -> list[Record] | Drop:
        if source.chosen is None or source.rejected is None:
            return Drop("no_pair")
        if source.rejected_images or source.rejected_videos or source.rejected_prompt:
            return Drop("other_context", "other media or another prompt belong to the chosen answer alone")
        scores = [getattr(source, f"{side}_scores").get(self.score) for side in SIDES]
        if None in scores:
            return Drop("no_score", f"no {self.score} of {SIDES[scores.index(None)]}")
        if self.score_min is not None and not all(self.score_min <= score <= self.score_max for score in scores):
            return Drop("out_of_range", f"{scores[0]:g} and {scores[1]:g}")
        asked = [printed(self._rescaled(score), self.decimals) for score in scores]
        if asked[0] == asked[1]:
            return Drop("tie", f"both {asked[0]}")
        return [self._asking(source, side, score) for side, score in zip(SIDES, asked, strict=True)]

    def _rescaled(self, score: float) -> float:
        if self.score_min is None:
            return score
        return LOWEST + (HIGHEST - LOWEST) * (score - self.score_min) / (self.score_max - self.score_min)

    def _asking(self, source: Record, better: str, score: str) -> Record:
        """The pair whose prompt asks for ``score``, that of the side ``better``.

        A third answer and a list of responses were judged by the plain prompt, and are left behind.
        """
        asked = replace(
            source,
            id=f"{source.id}#{better}",
            prompt=with_system(source.prompt, self.system.replace(PLACE, score)),
            responses=None,
            gold=None,
            meta={"target": score, "target_of": better, **({"source": source.meta} if source.meta else {})},
        )
        return asked if better == "chosen" else swapped(asked)


def printed(score: float, decimals: int) -> str:
    """A score as a person would write it: ``7``, not ``7.00``; ``0``, not ``-0``."""
    text = f"{score:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def with_system(prompt: Messages, text: str) -> Messages:
    """The prompt with ``text`` in its system message: at the end of one that is there, or of a new one."""
    block = {"type": "text", "text": text}
    first = prompt[0]
    if first["role"] != "system":
        return [{"role": "system", "content": [block]}, *prompt]
    return [{**first, "content": [*first["content"], {**block, "text": f"\n\n{text}"}]}, *prompt[1:]]


def swapped(record: Record) -> Record:
    """The record with its two answers, and all that is said of them, on the other side."""
    said = ("", "_scores", "_spans", "_critique")
    sides = zip(SIDES, reversed(SIDES), strict=True)
    return replace(
        record, **{f"{side}{what}": getattr(record, f"{other}{what}") for side, other in sides for what in said}
    )
