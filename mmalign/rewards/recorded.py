"""Scores that someone else gave: people, another program, an answer that was paid for once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmalign import checks
from mmalign.media import FRAMES, FrameChoice
from mmalign.plugins import option
from mmalign.records import InputError, Record, read_jsonl
from mmalign.rewards import Scored

_ROW: dict[str, checks.Check] = {"id": checks.nonempty, "scores": checks.scores, "text": checks.string}


@dataclass(frozen=True)
class Recorded:
    """Scores from a JSONL file of ``{"id": "a#0", "scores": {"reward": 0.7}}``, and ``"text"`` where there is one.

    They are looked up by the record's id and may be of one response or of a pair: what was scored is what the file's
    maker scored. A record that the file lacks has no scores, and the text says so.
    """

    file: str = option("", "JSONL file of ids and their scores.")

    pairwise: ClassVar[bool] = False
    wants_model: ClassVar[bool] = False

    def __call__(
        self, model: None = None, *, media_root: str | Path = "", batch_size: int = 8, frames: FrameChoice = FRAMES
    ) -> _RecordedScorer:
        """Read the file; no model and no media are looked at.

        Raises:
            InputError: it cannot be read, or a line is no such row, or two have one id.
        """
        if not self.file:
            raise InputError("is missing: name the file that has the scores", field="file")
        found: dict[str, Scored] = {}
        for line, scored in read_jsonl(self.file, _row):
            if scored.id in found:
                raise InputError(f"{scored.id!r} has scores before: keep one", file=self.file, line=line, field="id")
            found[scored.id] = scored
        return _RecordedScorer(self.file, found)


@dataclass(frozen=True)
class _RecordedScorer:
    """See `mmalign.rewards.Scorer`."""

    file: str
    found: Mapping[str, Scored]

    def score(self, records: Iterable[Record]) -> Iterator[Scored]:
        """What the file says of each record."""
        for record in records:
            yield self.found.get(record.id) or Scored(record.id, {}, f"{self.file} has no scores of it")


def _row(obj: Any, *, file: Path, line: int) -> tuple[int, Scored]:
    with checks.located(file, line):
        return line, Scored(**checks.values(obj, _ROW, required=("id", "scores")))
