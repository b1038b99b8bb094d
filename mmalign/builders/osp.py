"""Pairs that a model judges itself, with how sure it is: the data of OSP.

Zhai et al., "Online Self-Preferring Language Models" (arXiv 2405.14103): self-generated responses, and self-judged
strengths of preference. docs/builders/osp.md says what is the paper's and what is ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from mmalign import runs
from mmalign.builders import WRITER, Drop, Unit
from mmalign.builders._pairing import ALL, BEST_WORST, PAIRINGS, pair_record, pairs_of
from mmalign.builders._sampling import Candidates, Sampling
from mmalign.endpoint import Writer
from mmalign.plugins import check, option
from mmalign.records import Record
from mmalign.rewards import DIGITS, Scored, couples
from mmalign.rewards.judge import PROMPT, Judge

SCORE = "wins"


@dataclass(frozen=True)
class OSP(Sampling):
    """A model's own responses, each two of which it judges itself, in both orders (OSP, arXiv 2405.14103).

    A response is as good as it is likely to win against another one, on average. ``strength`` of a pair is the judged
    probability that its chosen response is better than its rejected one. Responses that a source brings along are
    taken as they are.
    """

    k: int = option(4, "Responses that are sampled for a source; k (k - 1) questions are asked about them.")
    pairs: str = option(ALL, "Which pairs: all (that are judged apart), or best_worst (the best and the worst).")
    min_strength: float = option(0.5, "Pairs whose strength is lower are left out, and those at 0.5 in any case.")
    prompt: str | None = option(None, "What the judge is asked, with {question}, {a} and {b}. None: mmalign's own.")
    prefix: str = option("", "Beginning of the judge's answer.")

    wants: ClassVar[str] = WRITER

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "pairs", self.pairs in PAIRINGS, " or ".join(PAIRINGS))
        check(self, "min_strength", 0.5 <= self.min_strength <= 1, "from 0.5 to 1")
        _ = self._judge  # checks its options

    def __call__(self, unit: Unit, model: Writer) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#osp-1``, ``SOURCE#osp-2``..., or ``SOURCE#osp`` where there is only one pair to be had."""
        judge = self._judge(model, media_root=unit.media_root, batch_size=unit.batch_size, frames=self.choice)
        sound: list[Candidates] = []
        for source, candidates in self.candidates(unit, model, use_given=True):
            if isinstance(candidates, Drop):
                yield source, candidates
            else:
                sound.append(candidates)
        verdicts = judge.score(couple for candidates in sound for couple in couples(candidates.listed))
        for candidates in sound:
            count = len(candidates.responses)
            yield (
                candidates.source.id,
                self._result(candidates, list(itertools.islice(verdicts, count * (count - 1) // 2))),
            )

    def inputs(self) -> dict[str, str]:
        """The judge's question, also where it is mmalign's own and no option."""
        return {"prompt": runs.fingerprint(self._judge.prompt)}

    @cached_property
    def _judge(self) -> Judge:
        return Judge(PROMPT if self.prompt is None else self.prompt, self.prefix)

    def _result(self, candidates: Candidates, verdicts: list[Scored]) -> list[Record] | Drop:
        if unscored := [each for each in verdicts if not each.scores]:
            return Drop("unscored", unscored[0].text)
        strengths = _both_ways(len(candidates.responses), [each.scores["strength"] for each in verdicts])
        scores = [round(sum(row.values()) / len(row), DIGITS) for row in strengths]
        responses = candidates.with_scores(SCORE, scores)
        judged = [(pair, strengths[pair.chosen][pair.rejected]) for pair in pairs_of(responses, scores, self.pairs)]
        if not judged:
            return Drop("undecided", "all win as often, on average")
        pairs = [(pair, strength) for pair, strength in judged if strength > 0.5 and strength >= self.min_strength]
        if not pairs:
            return Drop("undecided", f"the judge is sure of none: at most {max(strength for _, strength in judged)}")
        records = []
        for number, (pair, strength) in enumerate(pairs, 1):
            records.append(
                pair_record(
                    candidates.source,
                    "osp" if self.pairs == BEST_WORST else f"osp-{number}",
                    responses[pair.chosen],
                    responses[pair.rejected],
                    strength=strength,
                    meta={**candidates.meta, "k": len(responses), "gap": round(pair.gap, DIGITS)},
                )
            )
        return records


def _both_ways(count: int, strengths: list[float]) -> list[dict[int, float]]:
    """For each response, against each other one, how likely it is the better of the two.

    Args:
        strengths: for each two of ``count`` responses, in the order of `itertools.combinations`.
    """
    table: list[dict[int, float]] = [{} for _ in range(count)]
    for (i, j), strength in zip(itertools.combinations(range(count), 2), strengths, strict=True):
        table[i][j], table[j][i] = strength, round(1 - strength, DIGITS)
    return table
