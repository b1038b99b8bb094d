"""Several responses to each source: the model's own, sampled, or those that a source brings along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmalign import runs
from mmalign.backbones import Job
from mmalign.builders import Drop, Unit
from mmalign.builders._frames import Frames
from mmalign.endpoint import Writer
from mmalign.forward import Shown, shown
from mmalign.media import FrameChoice, MediaError
from mmalign.plugins import check, option
from mmalign.records import Record, Response, assistant_message, text_of


@dataclass(frozen=True)
class Candidates:
    """A source and responses to it that all say something else.

    Attributes:
        source: as it was read.
        responses: two or more.
        meta: how they came about, for the records that are made of them.
    """

    source: Record
    responses: tuple[Response, ...]
    meta: dict[str, Any]

    @property
    def listed(self) -> Record:
        """The source with these responses, as scorers read them (`mmalign.rewards.singles`, ``couples``)."""
        own = self.source
        return Record(own.id, own.prompt, responses=self.responses, images=own.images, videos=own.videos)

    def with_scores(self, name: str, scores: Sequence[float]) -> list[Response]:
        """The responses, each with one more score."""
        return [
            Response(each.message, {**each.scores, name: score}, None, each.spans, each.critique)
            for each, score in zip(self.responses, scores, strict=True)
        ]


@dataclass(frozen=True)
class Sampling(Frames):
    """Options of how responses are sampled; what builders that sample are made from."""

    k: int = option(8, "Responses that are sampled for a source.")
    temperature: float = option(1.0, "Of the samples; 1 samples from the model as it is.")
    top_p: float = option(1.0, "Sample from the likeliest tokens that hold this much probability.")
    max_tokens: int = option(512, "Limit of a response.")
    seed: int = option(0, "Another seed gives other responses.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "k", self.k >= 2, "2 or more")
        check(self, "temperature", self.temperature > 0, "above 0: at 0 all responses would be the same")
        check(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        check(self, "max_tokens", self.max_tokens >= 1, "1 or more")

    def candidates(self, unit: Unit, model: Writer, *, use_given: bool) -> Iterator[tuple[str, Candidates | Drop]]:
        """For each source of ``unit`` its id, and its responses or why there are not two.

        All samples of a unit are written together; each has a seed of its own.

        Args:
            use_given: take the ``responses`` of a source that has them, and sample for the others only.
        """
        seen: dict[str, Shown | Drop] = {source.id: see(unit, source, self.choice) for source in unit.items}
        open_ones = [
            source
            for source in unit.items
            if not isinstance(seen[source.id], Drop) and not (use_given and source.responses)
        ]
        jobs = [job for source in open_ones for job in self._jobs(source, seen[source.id])]
        written = iter(
            unit.write(model, jobs, max_new_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)
        )
        drawn = {source.id: [next(written).strip() for _ in range(self.k)] for source in open_ones}
        for source in unit.items:
            problem = seen[source.id]
            if isinstance(problem, Drop):
                yield source.id, problem
            elif source.id in drawn:
                yield source.id, self._of_samples(source, drawn[source.id])
            else:
                yield source.id, _of_given(source)

    def _jobs(self, source: Record, seen: Shown) -> list[Job]:
        seeds = [runs.stable_seed(self.seed, source.id, number) for number in range(self.k)]
        return [Job(seen.messages, seen.images, seed=seed, key=source.id, videos=seen.videos) for seed in seeds]

    def _of_samples(self, source: Record, texts: Sequence[str]) -> Candidates | Drop:
        counts = Counter(filter(None, texts))
        if not counts:
            return Drop("model_wrote_nothing")
        if len(counts) < 2:
            return Drop("all_alike", next(iter(counts)))
        meta = {
            "seed": self.seed,
            "responses_by": "model",
            "sampled": self.k,
            "blank": self.k - counts.total(),
            "counts": list(counts.values()),
        }
        return Candidates(source, tuple(Response(assistant_message(text)) for text in counts), meta)


def see(unit: Unit, source: Record, frames: FrameChoice) -> Shown | Drop:
    """A source's prompt with its pictures and clips opened, or the reason why one cannot be had."""
    try:
        return shown(source, unit.media_root, frames)
    except MediaError as error:
        return Drop(error.reason, str(error))


def _of_given(source: Record) -> Candidates | Drop:
    """A source's own responses, less those that say what an earlier one says."""
    distinct: dict[str, Response] = {}
    for each in source.responses:
        distinct.setdefault(text_of([each.message]).strip(), each)
    if len(distinct) < 2:
        return Drop("all_alike", next(iter(distinct)))
    return Candidates(source, tuple(distinct.values()), {"responses_by": "source", "given": len(source.responses)})
