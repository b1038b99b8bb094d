"""RRPO's self-alignment: what a model says of a clip that it sees in disorder and in part, where that is wrong.

Sarkar and Etemad, "Self-alignment of Large Video Language Models with Refined Regularized Preference Optimization"
(arXiv 2504.12083). docs/builders/rrpo.md says where this differs from it, and why.

The model answers a question about a perturbed clip. A right answer is of no use. A wrong one is brought into the words
of the true answer, so that the two differ in what is wrong alone: these words are the spans that RRPO learns from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from PIL import Image

from mmalign import endpoint, runs
from mmalign.backbones import Job
from mmalign.builders import WRITER, Drop, Unit
from mmalign.builders._differing import DIFFERENCES, REWRITE, Rewritten, rewritten
from mmalign.builders._judging import Case, Judging
from mmalign.builders._pairing import pair_record
from mmalign.builders._sampling import see
from mmalign.builders._verdict import OPEN, Asked, asked
from mmalign.endpoint import Writer
from mmalign.forward import Shown
from mmalign.media import Clip
from mmalign.media.perturb import AREA, MASK, WINDOW, Plan, plan
from mmalign.plugins import check, option
from mmalign.records import Record, Response, assistant_message, text_of
from mmalign.spans import compare, differences

KINDS = ("mask+local_shuffle", "mask+global_shuffle", "local_shuffle", "global_shuffle", MASK)
"""What can be done to a clip, the paper's best first; see `mmalign.media.perturb`."""

SMALLEST_MASK = 0.001
"""Share of a frame: a smaller mask may hide no pixel."""


@dataclass(frozen=True)
class _Source:
    """A source with what it shows, its question, and why its attempts so far gave nothing."""

    record: Record
    seen: Shown
    asked: Asked
    refused: tuple[Drop, ...] = ()

    @property
    def truth(self) -> str:
        return self.asked.truth


@dataclass(frozen=True)
class _Draft:
    """What one attempt gave for a source.

    Attributes:
        answer: of the model, about the perturbed clip.
        plans: what was done to each picture and then to each clip.
        rejected: the wrong answer as it is trained on; None: it is still to be made.
        certain: whether a rule was sure that the answer is wrong.
        meta: how it was judged and rewritten.
    """

    source: _Source
    attempt: int
    answer: str
    plans: tuple[Plan, ...]
    rejected: str | None = None
    certain: bool = True
    meta: dict[str, Any] | None = None

    def noted(self, **meta: Any) -> _Draft:
        return replace(self, meta={**(self.meta or {}), **meta})


@dataclass(frozen=True)
class RRPO(Judging):
    """Wrong answers to questions about perturbed clips, in the words of the true ones (RRPO, arXiv 2504.12083).

    Each source has a true answer. Records have spans, where the two answers differ.
    """

    wants: ClassVar[str] = WRITER

    kinds: str = option(KINDS[0], "What is done to clips, such as mask+global_shuffle; of several, a,b: one a try.")
    mask_min: float = option(AREA[0], f"Least share of each frame that a mask hides, {SMALLEST_MASK} or more.")
    mask_max: float = option(AREA[1], "Largest share.")
    window: int = option(WINDOW, "Neighbouring frames that a local shuffle permutes among themselves.")
    frames: int = option(16, "Of each clip, evenly spaced; with fps, the most of them.")
    attempts: int = option(1, "Tries for a source, each with another perturbation, until an answer is wrong.")
    temperature: float = option(0.0, "Of the answer; 0: the likeliest one, so that what is wrong comes of the clip.")
    top_p: float = option(1.0, "Sample from the likeliest tokens that hold this much probability.")
    max_tokens: int = option(512, "Limit of an answer, and of what is written to rewrite it.")
    short_words: int = option(3, "True answers of at most so many words are compared by rule; 0: none is.")
    rewrite: str = option(
        "model", "Who brings an open answer into the words of the true one: model, another MODEL or URL#MODEL, or none."
    )
    seed: int = option(0, "Another seed gives other perturbations and answers.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "kinds", set(self._kinds) <= set(KINDS), f"some of {', '.join(KINDS)}, with commas between")
        check(self, "mask_min", SMALLEST_MASK <= self.mask_min <= 1, f"from {SMALLEST_MASK} to 1")
        check(self, "mask_max", self.mask_min <= self.mask_max <= 1, f"from mask_min ({self.mask_min}) to 1")
        check(self, "window", self.window >= 2, "2 or more")
        check(self, "temperature", self.temperature >= 0, "0 or more")
        check(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        check(self, "short_words", self.short_words >= 0, "0 or more")
        for name in ("attempts", "max_tokens"):
            check(self, name, getattr(self, name) >= 1, "1 or more")

    def __call__(self, unit: Unit, model: Writer) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#rrpo``. An attempt is for all sources together whose answers were not wrong before."""
        pending: list[_Source] = []
        for record in unit.items:
            source = self._read(unit, record)
            if isinstance(source, Drop):
                yield record.id, source
            else:
                pending.append(source)
        for attempt in range(1, self.attempts + 1):
            results = self._attempt(unit, model, pending, attempt) if pending else []
            again: list[_Source] = []
            for source, result in zip(pending, results, strict=True):
                if isinstance(result, Record):
                    yield source.record.id, [result]
                elif attempt < self.attempts:
                    again.append(replace(source, refused=(*source.refused, result)))
                else:
                    yield source.record.id, _last(*source.refused, result)
            pending = again

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what is asked, of other models that judge or rewrite, and of recorded scores."""
        inputs = self.judge_inputs()
        if self.rewrite != "none":
            inputs["rewrite_prompts"] = runs.fingerprint(DIFFERENCES, REWRITE)
        if self.rewrite not in ("none", "model"):
            inputs["rewriter"] = self._rewriter.fingerprint()
        return inputs

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        return f"{record.meta['kind']}, {record.meta['rejected_by']}"

    # ---- sources -----------------------------------------------------------------------------------------------------

    def _read(self, unit: Unit, record: Record) -> _Source | Drop:
        """A source whose answers can be judged, with its media."""
        if not (record.images or record.videos):
            return Drop("no_media")
        if not record.chosen:
            return Drop("no_answer")
        truth = text_of(record.chosen)
        if not truth.strip():
            return Drop("empty_answer")
        question = asked(text_of(record.prompt[-1:]), truth, self.short_words)
        if question is None:
            return Drop("no_such_option", truth)
        if question.kind == OPEN and not self.has_judge:
            return Drop("open_answer", "no rule can judge it, and no judge is given (judge)")
        seen = see(unit, record, self.choice)
        return seen if isinstance(seen, Drop) else _Source(record, seen, question)

    # ---- one attempt -------------------------------------------------------------------------------------------------

    def _attempt(self, unit: Unit, model: Writer, sources: Sequence[_Source], attempt: int) -> Iterator[Record | Drop]:
        """What each source gives under its next perturbation."""
        drafts = self._answered(unit, model, sources, attempt)
        drafts = self._judged(unit, model, drafts)
        drafts = self._rewritten(unit, model, drafts)
        return (draft if isinstance(draft, Drop) else self._record(draft) for draft in drafts)

    def _answered(self, unit: Unit, model: Writer, sources: Sequence[_Source], attempt: int) -> list[_Draft | Drop]:
        """Answers about perturbed media; those that a rule finds right, or cannot read, are dropped."""
        shown = [self._perturbed(source, attempt) for source in sources]
        jobs = [each[0] for each in shown if not isinstance(each, Drop)]
        options = {"max_new_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        texts = iter(unit.write(model, jobs, **options) if jobs else ())
        return [
            each if isinstance(each, Drop) else _by_rule(_Draft(source, attempt, next(texts).strip(), each[1]))
            for source, each in zip(sources, shown, strict=True)
        ]

    def _perturbed(self, source: _Source, attempt: int) -> tuple[Job, tuple[Plan, ...]] | Drop:
        """The question with every picture and clip perturbed. A picture, or a clip of one frame, is only masked."""
        plans: list[Plan] = []
        media: tuple[list[Image.Image], list[Clip]] = [], []
        groups = [*([image] for image in source.seen.images), *(clip.frames for clip in source.seen.videos)]
        for number, frames in enumerate(groups):
            found = self._plan(frames, runs.stable_seed(self.seed, source.record.id, attempt, number), attempt)
            if found is None:
                return Drop("not_perturbed", "one frame, and no mask")
            plans.append(found)
        for image, how in zip(source.seen.images, plans, strict=False):
            media[0].extend(how.show([image]))
        for clip, how in zip(source.seen.videos, plans[len(source.seen.images) :], strict=True):
            media[1].append(replace(clip, frames=how.show(clip.frames), indices=tuple(how.apply(clip.indices))))
        seed = runs.stable_seed(self.seed, source.record.id, attempt, "answer")
        return Job(source.seen.messages, tuple(media[0]), seed=seed, videos=tuple(media[1])), tuple(plans)

    def _plan(self, frames: Sequence[Image.Image], seed: int, attempt: int) -> Plan | None:
        kind = self._kinds[(attempt - 1) % len(self._kinds)]
        if len(frames) == 1 and kind.startswith(MASK):
            kind = MASK
        area, aspect = (self.mask_min, self.mask_max), frames[0].width / frames[0].height
        return plan(kind, len(frames), None, seed, window=self.window, area=area, aspect=aspect)

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(kind.strip() for kind in self.kinds.split(","))

    # ---- the judge ---------------------------------------------------------------------------------------------------

    def _judged(self, unit: Unit, model: Writer, drafts: Sequence[_Draft | Drop]) -> list[_Draft | Drop]:
        """Answers that no rule could judge for certain, judged; without a judge the rule's word stands."""
        open_ones = [draft for draft in drafts if isinstance(draft, _Draft) and not draft.certain]
        if not self.has_judge or not open_ones:
            return [draft if isinstance(draft, Drop) else draft.noted(judged_by="rule") for draft in drafts]
        cases = [Case(each.source.record, each.attempt, each.source.truth, each.answer) for each in open_ones]
        said = iter(self.scores_of(unit, model, cases))
        return [
            draft if isinstance(draft, Drop)
            else draft.noted(judged_by="rule") if draft.certain
            else self._sentence(draft, next(said))
            for draft in drafts
        ]  # fmt: skip

    def _sentence(self, draft: _Draft, score: float | Drop) -> _Draft | Drop:
        if isinstance(score, Drop):
            return score
        if score >= self.threshold:
            return Drop("answered_right", f"{draft.answer} ({self.judge}: {score})")
        return draft.noted(judged_by=self.judge, judge_score=score)

    # ---- the rejected answer -----------------------------------------------------------------------------------------

    def _rewritten(self, unit: Unit, model: Writer, drafts: Sequence[_Draft | Drop]) -> list[_Draft | Drop]:
        """Drafts with their rejected answers: by rule, by a model that was asked to, or as the model gave them."""
        open_ones = [draft for draft in drafts if isinstance(draft, _Draft) and draft.rejected is None]
        made: Iterator[Rewritten | Drop] = iter(())
        if open_ones and self.rewrite != "none":
            writer = model if self.rewrite == "model" else self._rewriter
            pairs = [(draft.source.truth, draft.answer) for draft in open_ones]
            made = rewritten(unit, writer, pairs, max_new_tokens=self.max_tokens)
        return [
            draft if isinstance(draft, Drop)
            else draft.noted(rejected_by="rule") if draft.rejected is not None
            else _as_answered(draft) if self.rewrite == "none"
            else _as_rewritten(draft, next(made))
            for draft in drafts
        ]  # fmt: skip

    @cached_property
    def _rewriter(self) -> Writer:
        return endpoint.load_writer(self.rewrite)

    def _record(self, draft: _Draft) -> Record | Drop:
        source, rejected = draft.source, draft.rejected
        chosen_spans, rejected_spans = differences(source.truth, rejected)
        if not chosen_spans and not rejected_spans:
            return Drop("same_words", rejected)
        meta = {
            "seed": self.seed,
            "tries": draft.attempt,
            "plans": [each.to_json() for each in draft.plans],
            "answer": draft.answer,
            "kind": source.asked.kind,
            **(draft.meta or {}),
            "changed": round(compare(source.truth, rejected, exact=True).share, 6),
        }
        sides = (
            Response(source.record.chosen[0], spans=chosen_spans),
            Response(assistant_message(rejected), spans=rejected_spans),
        )
        return pair_record(source.record, "rrpo", *sides, meta=meta)


def _by_rule(draft: _Draft) -> _Draft | Drop:
    """The draft, unless a rule finds its answer right or cannot read it."""
    if not draft.answer:
        return Drop("model_wrote_nothing")
    verdict = draft.source.asked.verdict(draft.answer)
    if verdict.right:
        return Drop("answered_right", draft.answer)
    if verdict.right is None and draft.source.asked.kind != OPEN:
        return Drop("unparsed", draft.answer)
    return replace(draft, rejected=verdict.rejected, certain=verdict.certain and verdict.right is not None)


def _as_answered(draft: _Draft) -> _Draft:
    return replace(draft, rejected=draft.answer).noted(rejected_by="answer")


def _as_rewritten(draft: _Draft, made: Rewritten | Drop) -> _Draft | Drop:
    if isinstance(made, Drop):
        return made
    if draft.source.asked.verdict(made.text).right:  # other words, and the same option or word as before
        return Drop("not_rewritten", f"still_right: {made.text}")
    return replace(draft, rejected=made.text).noted(rejected_by="rewriting", differences=made.differences)


def _last(*refused: Drop) -> Drop:
    """Why the last of several attempts gave nothing; the others are told beside it."""
    if len(refused) == 1:
        return refused[0]
    return Drop(refused[-1].reason, "; ".join(f"{each.reason} {each.detail}".rstrip() for each in refused))
