"""A model is asked about responses in words, and its answer is read off the probabilities of its first words."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmalign.backbones import Job
from mmalign.endpoint import Writer
from mmalign.forward import Shown, shown
from mmalign.media import FrameChoice
from mmalign.records import InputError, Messages, Record, text_of
from mmalign.rewards import Scored


@dataclass(frozen=True, eq=False)
class Asker:
    """A generative judge at work; see `mmalign.rewards.Scorer`.

    Attributes:
        model: that judges.
        media_root, batch_size, frames: see `mmalign.rewards.Reward`.
        answers: what is weighed against each other.
        prefix: beginning of the judge's answer, which it does not get to choose.
        texts: what is asked about a record, each in a turn of its own.
        verdict: of a record's id and, for each text, the probability of the first answer.
    """

    model: Writer
    media_root: Path
    batch_size: int
    frames: FrameChoice
    answers: tuple[str, str]
    prefix: str
    texts: Callable[[Record], list[str]]
    verdict: Callable[[str, list[float]], Scored]

    def score(self, records: Iterable[Record]) -> Iterator[Scored]:
        """Each record's verdict."""
        rest = iter(records)
        while several := list(islice(rest, self.batch_size)):
            yield from self._of(several)

    def _of(self, records: Sequence[Record]) -> Iterator[Scored]:
        opened: dict[tuple, Shown] = {}  # one object for a picture of several records: looked at once
        asked = [self._jobs(record, opened) for record in records]
        jobs = [job for each in asked if not isinstance(each, InputError) for job in each]
        found = iter(self.model.choose(jobs, self.answers, batch_size=self.batch_size) if jobs else ())
        for record, each in zip(records, asked, strict=True):
            if isinstance(each, InputError):
                yield Scored(record.id, {}, str(each))
            else:
                yield self._scored(record.id, [float(next(found)[0]) for _ in each])

    def _scored(self, id: str, said: list[float]) -> Scored:  # noqa: A002 - the record's word
        if any(map(math.isnan, said)):
            both = " nor ".join(self.answers)
            return Scored(
                id, {}, f"neither {both} is among the judge's likeliest first words: does it think aloud first?"
            )
        return self.verdict(id, said)

    def _jobs(self, record: Record, opened: dict[tuple, Shown]) -> list[Job] | InputError:
        texts = self.texts(record)
        kinds = [block["type"] for message in record.prompt for block in message["content"] if block["type"] != "text"]
        key = (*kinds, record.images, record.videos)
        try:
            if key not in opened:
                opened[key] = shown(record, self.media_root, self.frames)
            for text in texts:
                self._refuse_placeholder(text)
        except InputError as error:
            return error
        seen, media = opened[key], [{"type": kind} for kind in kinds]
        asked = [{"role": "user", "content": [*media, {"type": "text", "text": text}]} for text in texts]
        return [Job([message], seen.images, self.prefix, videos=seen.videos) for message in asked]

    def _refuse_placeholder(self, text: str) -> None:
        """One in a response would be taken for a picture or a clip."""
        if found := getattr(self.model, "placeholder_in", lambda _: "")(text):
            raise InputError(f"a text holds the model's placeholder for pictures or clips, {found!r}")


def conversation(messages: Messages) -> str:
    """The text of a prompt; of several turns, each after its role."""
    if len(messages) == 1:
        return text_of(messages)
    return "\n".join(f"{message['role']}: {text_of([message])}" for message in messages)


def check_template(template: str, wanted: Sequence[str], field: str) -> None:
    """Raise InputError unless ``template`` has a place for each of ``wanted`` and for nothing else."""
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise InputError(f"{error}: write {{{{ for a brace that is meant", field=field) from None
    if found != set(wanted):
        places = ", ".join(f"{{{name}}}" for name in wanted)
        raise InputError(f"must have the places {places}, each at least once, and no other", field=field)
