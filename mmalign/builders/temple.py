"""TEMPLE: a video told as it is, and as it would be with its clips lost, shuffled or turned round.

Li et al., "TEMPLE: Temporal Preference Learning of Video LLMs via Difficulty Scheduling and Pre-SFT Alignment" (arXiv
2503.16929), its data pipeline. docs/builders/temple.md says where this differs from its released code, and why.

A video is cut into shots, and neighbouring shots that look alike are runs. The model captions each run from its key
frames, knowing those of the run before, and then tells the whole video from this list of captions: that is the good
answer. From the list with captions dropped, shuffled or reversed it tells the rejected ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mmalign import runs
from mmalign.backbones import Job
from mmalign.builders import WRITER, Drop, Unit, _telling
from mmalign.builders._selection import Selection, Video, cut_together, dropped
from mmalign.endpoint import Writer
from mmalign.media import MediaError
from mmalign.media.perturb import LEVELS, Plan, plans
from mmalign.plugins import check, option
from mmalign.records import Message, Record, assistant_message, user_message

KINDS = ("drop", "shuffle", "reverse")
CAPTION, PIXEL, BOTH = "caption", "pixel", "both"
"""What is perturbed; see ``level``."""

PAPER, SOURCE = "paper", "source"
"""Whose question pairs answer; see ``ask``."""


class _Ask(NamedTuple):
    """A text to be written, if it is not there yet.

    Attributes:
        depends_on: all that it depends on beside the model and its limits.
        job: makes the job. Raises MediaError.
    """

    depends_on: Any
    job: Callable[[], Job]


@dataclass(frozen=True)
class _Told:
    """A video as it was told at one level, by plan; None: as it is."""

    level: str
    stories: dict[Plan | None, str]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class TEMPLE(Selection):
    """Pairs of a video told in order, and told with clips dropped, shuffled or reversed (arXiv 2503.16929).

    Videos are cut into shots, those of a few different scenes are kept, their clips captioned, and the captions (or the
    frames) perturbed. The stronger the perturbation, the easier the pair: difficulty is 1/r.
    """

    level: str = option(
        CAPTION, "What is perturbed: caption (the list of captions, as released), pixel (the frames shown) or both."
    )
    kinds: str = option(",".join(KINDS), "Perturbations, with commas between them.")
    levels: str = option(",".join(map(str, LEVELS)), "Their strengths r, with commas between them; 2 is the mildest.")
    ask: str = option(
        PAPER,
        "What pairs answer, and what is asked of frames: paper (one of six prompts) or source (the source's own).",
    )
    context: int = option(1, "Clips before a clip that the model sees beside it, to caption it.")
    first_prompt: str = option(_telling.FIRST_PROMPT, "What is asked about the first clip.")
    next_prompt: str = option(
        _telling.NEXT_PROMPT, "And about others: {last} is their number, {before} the one before."
    )
    story_prompt: str = option(_telling.STORY_PROMPT, "What is asked about a list of captions, which follows.")
    max_caption_tokens: int = option(2048, "Limit of a caption, analysis included.")
    caption_temperature: float = option(0.0, "Of captions; 0 takes the likeliest words.")
    max_tokens: int = option(8192, "Limit of a response.")
    temperature: float = option(0.7, "Of responses.")
    top_p: float = option(1.0, "Sample responses from the likeliest tokens that hold this much probability.")
    max_length_ratio: float = option(1.5, "Shuffle, reverse: neither response is longer by more than this factor.")
    seed: int = option(0, "Another seed gives other perturbations and responses.")

    wants: ClassVar[str] = WRITER
    aside: ClassVar[tuple[str, ...]] = ("work",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "level", self.level in (CAPTION, PIXEL, BOTH), f"{CAPTION}, {PIXEL} or {BOTH}")
        check(self, "ask", self.ask in (PAPER, SOURCE), f"{PAPER} or {SOURCE}")
        check(self, "kinds", bool(self._kinds) and set(self._kinds) <= {*KINDS}, f"some of {', '.join(KINDS)}")
        check(self, "levels", bool(self._levels) and min(self._levels) >= 2, "whole numbers from 2 on")
        for name in ("max_caption_tokens", "max_tokens", "max_length_ratio"):
            check(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("context", "temperature", "caption_temperature"):
            check(self, name, getattr(self, name) >= 0, "0 or more")
        check(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")

    def __call__(self, unit: Unit, model: Writer) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#KIND-rR`` and ``SOURCE#KIND-rR-pixel``.

        All captions of a unit are written together, and then all responses.
        """
        videos: list[Video] = []
        for source in unit.items:
            video = self.select(unit, model, source)
            if isinstance(video, Drop):
                yield source.id, video
            else:
                videos.append(video)
        captions = self._captions(unit, model, videos) if self.level != PIXEL else [()] * len(videos)
        captioned = []
        for video, found in zip(videos, captions, strict=True):
            if isinstance(found, Drop):
                yield video.source.id, found
            else:
                captioned.append((video, found))
        for video, told in self._stories(unit, model, captioned):
            yield video.source.id, told if isinstance(told, Drop) else self._result(video, told)

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        plan = record.meta["plan"]
        return f"{record.meta['level']}, {plan['kind']} r{plan['r']:02}"

    @cached_property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind.strip() for kind in self.kinds.split(",") if kind.strip())

    @cached_property
    def _levels(self) -> tuple[int, ...]:
        try:
            return tuple(sorted({int(level) for level in self.levels.split(",")}))
        except ValueError:
            return ()

    # ---- captions --------------------------------------------------------------------------------------------

    def _captions(self, unit: Unit, model: Writer, videos: Sequence[Video]) -> list[tuple[str, ...] | Drop]:
        """The captions of each video's runs, or why one could not be had."""
        asks = [self._about(video, run) for video in videos for run in range(len(video.runs))]
        limits = {"max_new_tokens": self.max_caption_tokens, "temperature": self.caption_temperature}
        written = iter(self._write(unit, model, "captions", asks, limits))
        return [
            _captions_of([next(written) for _ in video.runs], [self._before(run) for run in range(len(video.runs))])
            for video in videos
        ]

    def _before(self, run: int) -> int:
        """How many clips a model sees before that of a run."""
        return min(run, self.context)

    def _about(self, video: Video, run: int) -> _Ask:
        """The caption of one run."""
        shown = range(run - self._before(run), run + 1)
        messages = _telling.clip_question(len(shown) - 1, self.first_prompt, self.next_prompt)
        seed = runs.stable_seed(self.seed, video.source.id, "caption", run) if self.caption_temperature else 0
        return _Ask(
            [messages, video.shown(shown), seed],
            lambda: Job(messages, seed=seed, videos=tuple(video.clips[number] for number in shown)),
        )

    # ---- responses -------------------------------------------------------------------------------------------

    def _stories(
        self, unit: Unit, model: Writer, captioned: Sequence[tuple[Video, tuple[str, ...]]]
    ) -> Iterator[tuple[Video, list[_Told] | Drop]]:
        """Each video as it was told at each level, or why it was not."""
        levels = [level for level in (CAPTION, PIXEL) if self.level in (level, BOTH)]
        wanted = [
            (video, captions, level, [None, *self._plans(video)]) for video, captions in captioned for level in levels
        ]
        asks = [self._story(video, captions, level, plan) for video, captions, level, some in wanted for plan in some]
        limits = {"max_new_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        written = iter(self._write(unit, model, "responses", asks, limits))
        told = [
            _told_of(level, captions, {plan: next(written) for plan in some}) for _, captions, level, some in wanted
        ]
        for number, (video, _) in enumerate(captioned):
            own = told[number * len(levels) : (number + 1) * len(levels)]
            yield video, next((each for each in own if isinstance(each, Drop)), own)

    def _plans(self, video: Video) -> list[Plan]:
        seed = runs.stable_seed(self.seed, video.source.id, "plan")
        return plans(self._kinds, len(video.runs), self._levels, seed=seed)

    def _prompt(self, source: Record) -> list[Message]:
        """What a source's pairs answer, about its one clip."""
        if self.ask == SOURCE:
            return list(source.prompt)
        draw = runs.uniform(np.array([runs.stable_seed(self.seed, source.id, "prompt")]), 0)[0]
        return [user_message(_telling.PROMPTS[int(draw * len(_telling.PROMPTS))], videos=1)]

    def _story(self, video: Video, captions: Sequence[str], level: str, plan: Plan | None) -> _Ask:
        """A response: to the captions, or to the frames, as they are or as a plan shows them."""
        which = ("none",) if plan is None else (plan.kind, plan.r)
        seed = runs.stable_seed(self.seed, video.source.id, level, *which) if self.temperature else 0
        if level == CAPTION:
            shown = captions if plan is None else plan.apply(captions)
            messages = _telling.story_question(shown, self.story_prompt)
            return _Ask([messages, seed], lambda: Job(messages, seed=seed))
        order = range(len(video.runs)) if plan is None else plan.order
        messages = self._prompt(video.source)
        return _Ask(
            [messages, video.shown(order), seed],
            lambda: Job(messages, seed=seed, videos=(cut_together([video.clips[run] for run in order]),)),
        )

    def _write(
        self, unit: Unit, model: Writer, stage: str, asks: Sequence[_Ask], limits: dict[str, Any]
    ) -> list[str | Drop]:
        """What the model writes, or wrote before; a Drop where a file can no longer be read."""

        def make(missing: list[int]) -> Iterator[str | Drop]:
            jobs = [_job_of(asks[place]) for place in missing]
            texts = iter(unit.write(model, [job for job in jobs if isinstance(job, Job)], **limits))
            return (job if isinstance(job, Drop) else next(texts) for job in jobs)

        return self.stages.results(stage, [[ask.depends_on, limits, self._speaker(model)] for ask in asks], make)

    @cached_property
    def _speakers(self) -> dict[Any, list[Any]]:
        return {}

    def _speaker(self, model: Writer) -> list[Any]:
        """What of the model texts depend on, how it sees clips too. Its weights are read for that: once."""
        if model not in self._speakers:
            sees_clips = bool(getattr(model, "native_video", False))
            self._speakers[model] = [model.fingerprint(), str(getattr(model, "dtype", None)), sees_clips]
        return self._speakers[model]

    # ---- pairs -----------------------------------------------------------------------------------------------

    def _result(self, video: Video, told: Sequence[_Told]) -> list[Record] | Drop:
        """The pairs that pass, or a Drop with the reasons of those that do not."""
        passed: list[tuple[_Told, Plan]] = []
        refused: dict[str, str] = {}
        for each in told:
            for plan in filter(None, each.stories):
                if reason := refusal(plan.kind, each.stories[None], each.stories[plan], self.max_length_ratio):
                    refused[_variant(plan, each.level)] = reason
                else:
                    passed.append((each, plan))
        if not passed:
            reasons = {*refused.values()}
            detail = ", ".join(f"{variant} {reason}" for variant, reason in refused.items())
            return Drop(reasons.pop() if len(reasons) == 1 else "no_pair", detail)
        return [self._record(video, each, plan, refused) for each, plan in passed]

    def _record(self, video: Video, told: _Told, plan: Plan, refused: dict[str, str]) -> Record:
        source = video.source
        meta = {
            "seed": self.seed,
            "level": told.level,
            "plan": plan.to_json(),
            "shots": [[shot.first, shot.last, shot.start, shot.end] for shot in video.shots],
            "runs": [[run.group, run.shots] for run in video.runs],
            "key_frames": [list(frames) for frames in video.frames],
            **({"captions": list(told.captions)} if told.captions else {}),
            **({"refused": refused} if refused else {}),
            **({"source": source.meta} if source.meta else {}),
        }
        return Record(
            f"{source.id}#{_variant(plan, told.level)}",
            self._prompt(source),
            [assistant_message(told.stories[None])],
            [assistant_message(told.stories[plan])],
            videos=source.videos,
            difficulty=plan.difficulty,
            group=source.group,
            weight=source.weight,
            meta=meta,
        )


def refusal(kind: str, chosen: str, rejected: str, max_length_ratio: float = 1.5) -> str | None:
    """Why two responses are no pair, if they are none, in a word that is counted.

    As the released code has it, but that blank ones are refused too. Lengths are in characters.

    Args:
        kind: how ``rejected`` came about.
        max_length_ratio: that of the longer to the shorter is at most this, but for ``drop``, where ``chosen`` is the
            longer one.
    """
    if not chosen.strip() or not rejected.strip():
        return "model_wrote_nothing"
    if "N/A" in (chosen.strip(), rejected.strip()):
        return "not_available"
    if chosen in rejected:
        return "contains_chosen"
    if kind == "drop":
        return "not_longer" if len(chosen) <= len(rejected) else None
    ratio = max(len(chosen), len(rejected)) / min(len(chosen), len(rejected))
    return "length_ratio" if ratio > max_length_ratio else None


def _variant(plan: Plan, level: str) -> str:
    return f"{plan.kind}-r{plan.r}{'-pixel' if level == PIXEL else ''}"


def _captions_of(answers: Sequence[str | Drop], before: Sequence[int]) -> tuple[str, ...] | Drop:
    """The captions in a video's answers, each to a clip with so many before it."""
    if gone := [answer for answer in answers if isinstance(answer, Drop)]:
        return gone[0]
    captions = tuple(_telling.caption_of(*each) for each in zip(answers, before, strict=True))
    blank = [number for number, caption in enumerate(captions, start=1) if not caption]
    return Drop("empty_caption", f"of clip {blank[0]} of {len(captions)}") if blank else captions


def _told_of(level: str, captions: tuple[str, ...], answers: dict[Plan | None, str | Drop]) -> _Told | Drop:
    if gone := [answer for answer in answers.values() if isinstance(answer, Drop)]:
        return gone[0]
    if len(answers) < 2:
        return Drop("no_plan", "of one clip nothing can be dropped or moved")
    if level == CAPTION:
        return _Told(level, {plan: _telling.story_of(answer) for plan, answer in answers.items()}, captions)
    return _Told(level, {plan: answer.strip() for plan, answer in answers.items()})


def _job_of(ask: _Ask) -> Job | Drop:
    try:
        return ask.job()
    except MediaError as error:
        return dropped(error)
