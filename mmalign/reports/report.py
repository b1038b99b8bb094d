"""What a report says, before any thought of how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("hallucinated", "true")
"""What a mark says of the words under it: the picture does not show this, or it does."""

Mark = tuple[int, int, str]
"""Start and end (exclusive) in the characters of a text, and one of `KINDS`."""


@dataclass(frozen=True)
class Answer:
    """What a model said, and which of its words are judged.

    Attributes:
        text: as the model gave it; untrusted.
        marks: in any order; they may overlap.

    Raises:
        ValueError: a mark outside the text, an empty one, or one of another kind.
    """

    text: str
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        for start, end, kind in self.marks:
            if not 0 <= start < end <= len(self.text) or kind not in KINDS:
                raise ValueError(f"no mark of a text of {len(self.text)} characters: {(start, end, kind)}")

    def count(self, kind: str) -> int:
        """How many marks are of this kind."""
        return sum(mark[2] == kind for mark in self.marks)


@dataclass(frozen=True)
class Example:
    """One picture and what each model said of it.

    Attributes:
        image: a file that `mmalign.media.open_image` opens.
        question: what every model was asked.
        truth: the objects that really are in the picture.
        answers: by the model's name, the model before alignment first and the one after it last.
    """

    image: Path
    question: str
    truth: tuple[str, ...]
    answers: Mapping[str, Answer]

    @property
    def change(self) -> str:
        """What became of the first answer in the last: ``"fewer"`` hallucinated marks, ``"more"``, the
        ``"same"`` number in other words, or ``"none"`` where the text is the same."""
        answers = list(self.answers.values())
        if not answers or answers[0].text == answers[-1].text:
            return "none"
        before, after = answers[0].count("hallucinated"), answers[-1].count("hallucinated")
        return "fewer" if after < before else "more" if after > before else "same"


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        title: of the page.
        lead: one or two sentences under the title.
        scores: metrics by the model's name, the model before alignment first and the one after it last:
            ``{"chair_i": 0.2, "recall": 0.9, "pope": {"random": {"accuracy": 0.9, ...}, ...}}``. Shares are
            in [0, 1]. Numbers that the page does not know are shown as they are.
        curves: log lines of a training run, as `mmalign.training.metrics.read` gives them.
        examples: in any order; those whose answer changed are shown first.
        facts: how all this was made (commands, counts, versions, seeds, durations), in the order given.
    """

    title: str
    lead: str = ""
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: Sequence[Mapping[str, Any]] = ()
    examples: Sequence[Example] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
