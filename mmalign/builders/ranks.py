"""Ranks: pairs of responses that someone has ranked or scored.

Zhang et al., "MM-RLHF: The Next Step Forward in Multimodal LLM Alignment" (arXiv 2502.10391), section 4.2: every pair
of responses to a query with different ranks is a pair to learn from, not only the hardest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmalign.builders import NOTHING, Drop, Unit
from mmalign.builders._pairing import ALL, PAIRINGS, Pair, pair_record, pairs_of
from mmalign.plugins import option
from mmalign.records import InputError, Record, Response

RANK = "rank"


@dataclass(frozen=True)
class Ranks:
    """Pairs of the responses of a record, by their ranks or by a score that they have (arXiv 2502.10391, 4.2).

    Equal ranks give no pair.
    """

    by: str = option(RANK, "What tells better from worse: rank (smaller is better), or a score's name (larger is).")
    pairs: str = option(ALL, "all: every pair that differs; best_worst: the one with the largest gap.")
    min_gap: float = option(0.0, "Ranks or points that the two must be apart. All that differ are at 0.")

    wants: ClassVar[str] = NOTHING

    def __post_init__(self) -> None:
        if not self.by:
            raise InputError("must be rank or the name of a score", field="by")
        if self.pairs not in PAIRINGS:
            raise InputError(f"must be {' or '.join(PAIRINGS)}, got {self.pairs}", field="pairs")
        if not 0 <= self.min_gap < math.inf:
            raise InputError(f"must be 0 or more, got {self.min_gap}", field="min_gap")

    def __call__(self, unit: Unit, model: None) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#0-2``: the places in the source's list of the chosen and of the rejected response."""
        for record in unit.items:
            yield record.id, self._of(record)

    def _of(self, source: Record) -> list[Record] | Drop:
        if source.responses is None:
            return Drop("no_responses")
        scores = [self._score(response) for response in source.responses]
        known = len(scores) - sum(map(math.isnan, scores))
        if known < 2:
            return Drop(f"no_{RANK if self.by == RANK else 'score'}", f"{known} of {len(scores)} have a {self.by}")
        found = pairs_of(source.responses, scores, self.pairs, min_gap=self.min_gap)
        if found:
            return [self._pair(source, source.responses, pair) for pair in found]
        any_pair = pairs_of(source.responses, scores, self.pairs)
        return Drop("gap_too_small", f"at most {any_pair[0].gap:g}") if any_pair else Drop("all_tied")

    def _score(self, response: Response) -> float:
        """Larger is better; NaN where nobody said."""
        if self.by != RANK:
            return response.scores.get(self.by, math.nan)
        return math.nan if response.rank is None else -float(response.rank)

    def _pair(self, source: Record, responses: Sequence[Response], pair: Pair) -> Record:
        two = responses[pair.chosen], responses[pair.rejected]
        ranks = {} if None in (two[0].rank, two[1].rank) else {"ranks": [response.rank for response in two]}
        return pair_record(source, f"{pair.chosen}-{pair.rejected}", *two, meta={"gap": pair.gap, **ranks})
