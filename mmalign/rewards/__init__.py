"""Rewards: how good a response is, or which of two is better, by whoever can tell.

A scorer is one file here with a frozen dataclass whose fields are its options. Called with a model and the place of the
media it is set up, which may take a while, and then it reads records::

    judge = load("judge")(model, media_root="photos")
    for id, scores, text in judge.score(records):
        ...

A **pointwise** scorer (``pairwise`` is False) reads records with one response, their ``chosen``, and says how good it
is. A **pairwise** one reads records with ``chosen`` and ``rejected`` and says how likely it is that chosen is better.
`singles` and `couples` make such records of a list of responses, and `scored` puts scores into the list. Neither looks
at anything else that a record has besides its prompt and media. docs/rewards.md lists the scorers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from mmalign import plugins
from mmalign.media import FRAMES, FrameChoice
from mmalign.records import Record

__all__ = ["DIGITS", "Reward", "Scored", "Scorer", "couples", "load", "scored", "singles"]

DIGITS = 6
"""To which scores are rounded: what the layout of a batch moves in float32 sums lies mostly below."""


class Scored(NamedTuple):
    """What a scorer says of one record.

    Attributes:
        id: the record's.
        scores: by name, larger is better; empty where the record could not be scored.
        text: what a reader may want to know of how they came about; or why there are none.
    """

    id: str
    scores: dict[str, float]
    text: str = ""


class Scorer(Protocol):
    """A scorer at work."""

    def score(self, records: Iterable[Record]) -> Iterator[Scored]:
        """One `Scored` for each record, in their order; only a batch of them is read ahead.

        What is said of a record does not depend on the others. One that cannot be scored for a reason of its own (a
        picture that cannot be opened) has no scores and the reason as its text.

        Raises:
            InputError: what concerns all records: a model that cannot do it, a server that cannot be reached; or a
                record without the responses that the scorer reads.
        """


class Reward(Protocol):
    """What a file here holds: the options of a scorer.

    Attributes:
        pairwise: whether it compares chosen with rejected, or looks at chosen alone.
        wants_model: whether it is called with a model; one that says nothing is.
    """

    pairwise: ClassVar[bool]

    def __call__(
        self, model: Any, *, media_root: str | Path, batch_size: int = 8, frames: FrameChoice = FRAMES
    ) -> Scorer:
        """Set the scorer up.

        Args:
            model: that scores; None for a scorer that needs none.
            media_root: folder that the records' media names start from.
            batch_size: how many responses the model reads at a time.
            frames: which of each clip.
        """


def load(name: str, **options: Any) -> Reward:
    """The scorer ``name`` (a file here, or ``path/to/my_reward.py:MyReward``) with ``options`` set."""
    return plugins.find_class(__name__, name)(**options)


def singles(record: Record) -> list[Record]:
    """For each of a record's ``responses`` a record with that one as ``chosen``: ``ID#0``, ``ID#1``..."""
    return [_asked(record, str(i), chosen=[each.message]) for i, each in enumerate(record.responses or ())]


def scored(records: Iterable[Record], scorer: Scorer) -> Iterator[Record]:
    """The records, with what a pointwise scorer says of each of their ``responses`` among that response's scores.

    A response that cannot be scored stays as it is. Records are read a batch ahead.
    """
    ahead, behind = itertools.tee(records)
    verdicts = scorer.score(one for record in ahead for one in singles(record))
    for record in behind:
        several = record.responses or ()
        found = itertools.islice(verdicts, len(several))
        taken = [
            replace(each, scores={**each.scores, **said.scores}) for each, said in zip(several, found, strict=True)
        ]
        yield replace(record, responses=tuple(taken) or record.responses)


def couples(record: Record) -> list[Record]:
    """For each two of a record's ``responses`` a record with the earlier as ``chosen``: ``ID#0-1``, ``ID#0-2``..."""
    pairs = itertools.combinations(enumerate(record.responses or ()), 2)
    return [
        _asked(record, f"{i}-{j}", chosen=[one.message], rejected=[other.message]) for (i, one), (j, other) in pairs
    ]


def _asked(record: Record, number: str, **responses: Any) -> Record:
    """The same prompt and media, with other responses."""
    return Record(f"{record.id}#{number}", record.prompt, images=record.images, videos=record.videos, **responses)
