"""What spoils a preference file as a whole, though every line of it is right: the audit behind `mmalign validate`.

Each check is given one record after another and says at the end what it found. None of them holds a record: numbers and
64-bit digests only, some 250 bytes a record and 600 bytes a distinct picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from mmalign.builders._similarity import words_of
from mmalign.records import Messages, Record, Response, text_of

SHOWN = 5
"""How many lines a finding names."""


@dataclass(frozen=True)
class Finding:
    """One thing that the audit found.

    Attributes:
        kind: a word for it, the same in every version of the text.
        warning: whether it spoils the file; a note otherwise.
        text: what it is and what follows from it, in plain words.
        count: how many records it concerns.
        lines: the first few of them.
        like: for what repeats an earlier line, those lines, one for each of ``lines``.
        numbers: what was measured, by name.
    """

    kind: str
    warning: bool
    text: str
    count: int = 0
    lines: tuple[int, ...] = ()
    like: tuple[int, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Check(Protocol):
    """One question that is asked of a whole file."""

    def add(self, row: Row) -> None:
        """Look at one record more."""

    def findings(self) -> Iterator[Finding]:
        """What all of them together show; nothing where there is nothing to say."""


@dataclass
class Tally:
    """How many records something is true of, and the first few of their lines."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """Count a record."""
        self.count += 1
        if len(self.lines) < SHOWN:
            self.lines.append(line)


@dataclass(frozen=True)
class Row:
    """A record on its line, and what several checks want to know of it."""

    record: Record
    line: int

    @cached_property
    def chosen(self) -> str | None:
        """The better text: ``chosen``, or the best of a ranked list."""
        return self._texts[0]

    @cached_property
    def rejected(self) -> str | None:
        """The worse text: ``rejected``, or the worst of a ranked list."""
        return self._texts[1]

    @cached_property
    def chosen_words(self) -> list[str]:
        """Its words without case and punctuation; none where there is no text."""
        return words_of(self.chosen or "")

    @cached_property
    def rejected_words(self) -> list[str]:
        """As ``chosen_words``."""
        return words_of(self.rejected or "")

    @property
    def is_pair(self) -> bool:
        """Whether there are two texts to tell apart."""
        return self.chosen is not None and self.rejected is not None

    @property
    def has_negative(self) -> bool:
        """Whether the rejected side has media or a prompt of its own, so that its text may be that of the chosen."""
        record = self.record
        return bool(record.rejected_images or record.rejected_videos or record.rejected_prompt)

    @property
    def places(self) -> tuple[str, str] | None:
        """Where the two texts of a pair stand: ``chosen`` and ``rejected``, or ``responses[3]`` and another."""
        better, worse = self._sides
        return (better[0], worse[0]) if better and worse else None

    @cached_property
    def _texts(self) -> tuple[str | None, str | None]:
        better, worse = (text_of(side[1]) if side else None for side in self._sides)
        return better, worse

    @cached_property
    def _sides(self) -> tuple[tuple[str, Messages] | None, tuple[str, Messages] | None]:
        record = self.record
        if record.chosen or record.rejected or not record.responses:
            sides = {"chosen": record.chosen, "rejected": record.rejected}
            better, worse = ((name, side) if side else None for name, side in sides.items())
            return better, worse
        values = goodness(record.responses)
        if values is None or max(values) == min(values):
            return None, None
        best, worst = values.index(max(values)), values.index(min(values))
        better, worse = ((f"responses[{i}]", [record.responses[i].message]) for i in (best, worst))
        return better, worse


def goodness(responses: Sequence[Response]) -> list[float] | None:
    """How good each of a list is: by reward if all have one, else by rank, where smaller is better, if all have one."""
    if all("reward" in response.scores for response in responses):
        return [response.scores["reward"] for response in responses]
    if all(response.rank is not None for response in responses):
        return [-float(response.rank) for response in responses]
    return None


def percent(share: float) -> str:
    """``12.3%``."""
    return f"{share:.1%}"


# ---- what a person reads ---------------------------------------------------------------------------------------------


def as_text(findings: Iterable[Finding], width: int = 100) -> str:
    """Warnings, then notes, one paragraph each; empty where there is neither."""
    findings = list(findings)
    parts = []
    for heading, warning in (("Warnings", True), ("Notes", False)):
        said = [_paragraph(finding, width) for finding in findings if finding.warning == warning]
        if said:
            parts.append("\n".join([heading, *said]))
    return "\n\n".join(parts)


def _paragraph(finding: Finding, width: int) -> str:
    places = [f"{line} (as {like})" for line, like in zip(finding.lines, finding.like, strict=False)]
    places = places or list(map(str, finding.lines))
    more = " and more" if finding.count > len(places) else ""
    where = f" Line{'s' if finding.count > 1 else ''} {', '.join(places)}{more}." if places else ""
    lead = f"  {finding.kind:<20} "
    return textwrap.fill(
        finding.text + where,
        width,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
