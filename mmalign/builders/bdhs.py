"""BDHS: a rejected answer that the model gives when it can hardly see the picture.

Amirloo et al., "Understanding Alignment in Multimodal LLMs: A Comprehensive Study" (arXiv 2407.02477), section 4
and algorithm 1. The picture is hidden by an attention mask, by noise on its pixels (appendix E.1), or by both.
docs/builders/bdhs.md says where this differs from the paper, and why.

Each sentence of the good answer y+ is cut at a random word, and its rest is written anew with most of the picture
hidden, after the true text before it. So the rejected answer leaves y+ for what the language prior says, and
comes back to it with the next sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mmalign import runs
from mmalign.backbones import Backbone, Job
from mmalign.builders import Drop, Unit, _answers, _rewriting, _sentences, _similarity
from mmalign.media.noise import MAX_STEPS, Noise
from mmalign.plugins import check, option
from mmalign.records import Record, assistant_message

SWAP_RATE = 0.5
"""How often a sentence that answers Yes or No is begun with the other word."""


@dataclass(frozen=True)
class _Source:
    """A source with its good answer, the image tokens of its prompt, and the similarities of the tries so far."""

    answer: _answers.Answered
    image_tokens: int
    similarities: tuple[float, ...] = ()

    @property
    def id(self) -> str:
        return self.answer.record.id

    @property
    def chosen(self) -> str:
        return self.answer.text


@dataclass(frozen=True)
class _Plan:
    """What one guided try asks for: the image tokens that can be seen, and the sentences of y+, cut."""

    source: _Source
    keep: np.ndarray
    parts: list[_rewriting.Part]

    @property
    def true_sentences(self) -> list[str]:
        return [self.source.chosen[part.start : part.stop] for part in self.parts]

    def sentences(self, texts: Iterator[str]) -> list[str]:
        """The sentences with what the model wrote; takes one of ``texts`` for each open part."""
        return [_rewriting.join(self.source.chosen, part, next(texts) if part.open else "") for part in self.parts]


@dataclass(frozen=True)
class _Draft:
    """What one try gave for a source. ``similarity`` to y+ is None where it was not asked.

    ``cut_off``: whether a sentence has no ending.
    """

    source: _Source
    text: str
    keep: np.ndarray
    attempt: int
    similarity: float | None = None
    cut_off: bool = False

    @property
    def similarities(self) -> tuple[float, ...]:
        """Of all guided tries, up to this one."""
        return self.source.similarities + (() if self.similarity is None else (self.similarity,))


@dataclass(frozen=True)
class BDHS:
    """Rejected answers by bias-driven hallucination sampling (arXiv 2407.02477, algorithm 1).

    The sentences of the chosen answer, each continued by the model from a random word on, while most image
    tokens are hidden from it, or its pictures noised.
    """

    rho_th: float = option(0.99, "Share of image tokens that is hidden, from 0 (none) to 1 (all).")
    keep_tokens: float | None = option(None, "Instead of rho_th: how many image tokens to keep, on average.")
    noise_steps: int = option(
        0, "Steps of diffusion noise on the pixels, 0 to 1000; with rho_th 0 it alone hides them."
    )
    n_tries: int = option(5, "Tries for a record. The last one, if not the only one, is unguided: a whole answer.")
    eps_s: float = option(0.97, "A guided try is taken if its similarity to the chosen answer is below this.")
    encoder: str = option("words", "Measures it: words, sentence-transformers:NAME or path/to/file.py:Class.")
    compare: str = option("sentence", "What is compared: sentence (the least similar one decides) or text (whole).")
    temperature: float = option(1.0, "Of the rejected answer; 1 samples from the model as it is.")
    top_p: float = option(1.0, "Sample from the likeliest tokens that hold this much probability.")
    max_sentence_tokens: int = option(64, "Limit of what is written in one sentence.")
    max_answer_tokens: int = option(512, "Limit of a whole answer: unguided, or one that a source lacks.")
    write_chosen: bool = option(True, "Let the model write, greedily, the chosen answer that a source lacks.")
    seed: int = option(0, "Another seed gives other rejected answers.")

    def __post_init__(self) -> None:
        check(self, "rho_th", 0 <= self.rho_th <= 1, "from 0 to 1")
        check(self, "keep_tokens", self.keep_tokens is None or self.keep_tokens >= 0, "0 or more")
        check(self, "noise_steps", 0 <= self.noise_steps <= MAX_STEPS, f"from 0 to {MAX_STEPS}")
        check(self, "temperature", self.temperature >= 0, "0 or more")
        check(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        check(self, "compare", self.compare in ("sentence", "text"), "sentence or text")
        for name in ("n_tries", "max_sentence_tokens", "max_answer_tokens"):
            check(self, name, getattr(self, name) >= 1, "1 or more")
        _ = self._encode  # one that cannot be had is found out before any work is done

    def __call__(self, unit: Unit, model: Backbone) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#bdhs``. A try writes all sentences of all records that have no answer yet together."""
        pending: list[_Source] = []
        for source in self._read(unit, model):
            if isinstance(source, _Source):
                pending.append(source)
            else:
                yield source
        for attempt in range(1, self.n_tries + 1):
            if not pending:
                return
            last = attempt == self.n_tries
            write = self._unguided if last and attempt > 1 else self._guided
            drafts = write(unit, model, pending, attempt)
            pending = []
            for draft in drafts:
                if last or draft.similarity < self.eps_s:
                    yield draft.source.id, self._result(draft)
                else:
                    pending.append(replace(draft.source, similarities=draft.similarities))

    def inputs(self) -> dict[str, str]:
        """The fingerprint of an encoder that is a folder."""
        return _similarity.inputs(self.encoder)

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        return f"try {record.meta['tries']} ({'guided' if record.meta['guided'] else 'unguided'})"

    # ---- sources ---------------------------------------------------------------------------------------------

    def _read(self, unit: Unit, model: Backbone) -> Iterator[_Source | tuple[str, Drop]]:
        """Sources with their good answers, and how many image tokens there are to hide."""
        options = {"write_chosen": self.write_chosen, "max_new_tokens": self.max_answer_tokens}
        for answer in _answers.read(unit, model, unit.items, **options):
            if isinstance(answer, _answers.Answered):
                yield _Source(answer, model.image_token_count(answer.record.prompt, answer.images))
            else:
                yield answer

    # ---- one try ---------------------------------------------------------------------------------------------

    def _unguided(self, unit: Unit, model: Backbone, sources: Sequence[_Source], attempt: int) -> list[_Draft]:
        """Whole answers, without y+ as a guide; they are not compared."""
        keeps = [self._keep_mask(source, attempt) for source in sources]
        jobs = [self._job(source, keep, attempt, 0, "") for source, keep in zip(sources, keeps, strict=True)]
        texts = self._sample(unit, model, jobs, self.max_answer_tokens)
        return [
            _Draft(source, text.strip(), keep, attempt)
            for source, text, keep in zip(sources, texts, keeps, strict=True)
        ]

    def _guided(self, unit: Unit, model: Backbone, sources: Sequence[_Source], attempt: int) -> list[_Draft]:
        """Rewritten answers. One with a sentence that the model left without an ending has similarity 1."""
        plans = [_Plan(source, self._keep_mask(source, attempt), self._cuts(source, attempt)) for source in sources]
        jobs = [
            self._job(plan.source, plan.keep, attempt, number, part.prefix(plan.source.chosen))
            for plan in plans
            for number, part in enumerate(plan.parts)
            if part.open
        ]
        texts = iter(self._sample(unit, model, jobs, self.max_sentence_tokens, _sentences.ended))
        rewritten = [plan.sentences(texts) for plan in plans]
        similarities = self._similarities([plan.true_sentences for plan in plans], rewritten)
        drafts = []
        for plan, sentences, similarity in zip(plans, rewritten, similarities, strict=True):
            text = _rewriting.rebuild(plan.source.chosen, plan.parts, sentences)
            cut_off = _rewriting.lacks_ending(plan.parts, sentences)
            drafts.append(_Draft(plan.source, text, plan.keep, attempt, 1.0 if cut_off else similarity, cut_off))
        return drafts

    def _keep_mask(self, source: _Source, attempt: int) -> np.ndarray:
        """Which image tokens can be seen, eq. 6: those with rho_i >= rho_th. Shape: (image tokens,)."""
        threshold = self.rho_th
        if self.keep_tokens is not None:
            threshold = 1 - self.keep_tokens / max(1, source.image_tokens)
        return self._uniforms(source.image_tokens, source, attempt, "mask") >= threshold

    def _cuts(self, source: _Source, attempt: int) -> list[_rewriting.Part]:
        """The sentences of y+, each cut at a word, its Yes or No swapped half of the time."""
        parts = []
        for number, (start, stop) in enumerate(_sentences.split(source.chosen)):
            swap, where = self._uniforms(2, source, attempt, number, "cut")
            parts.append(_rewriting.cut(source.chosen[start:stop], start, swap < SWAP_RATE, where))
        return parts

    def _uniforms(self, count: int, source: _Source, attempt: int, *what: int | str) -> np.ndarray:
        """Numbers in [0, 1) that depend on seed, source, try and ``what`` alone. Shape: (count,)."""
        first = runs.stable_seed(self.seed, source.id, attempt, *what)
        return runs.uniform(np.uint64(first) + np.arange(count, dtype=np.uint64), 0)

    def _job(self, source: _Source, keep: np.ndarray, attempt: int, sentence: int, prefix: str) -> Job:
        seed = runs.stable_seed(self.seed, source.id, attempt, sentence)
        noise = None
        if self.noise_steps:  # one draw a try, whatever the sentence
            noise = Noise(self.noise_steps, runs.stable_seed(self.seed, source.id, attempt, "noise"))
        return Job(source.answer.record.prompt, source.answer.images, prefix, seed, keep, source.id, noise)

    def _sample(
        self, unit: Unit, model: Backbone, jobs: Sequence[Job], limit: int, stop: Callable[[str], bool] | None = None
    ) -> list[str]:
        options = {"max_new_tokens": limit, "temperature": self.temperature, "top_p": self.top_p, "stop": stop}
        return unit.write(model, jobs, **options)

    @cached_property
    def _encode(self) -> _similarity.Encoder:
        return _similarity.load_encoder(self.encoder)

    def _similarities(self, old: Sequence[list[str]], new: Sequence[list[str]]) -> list[float]:
        """Of two versions of answers, sentence by sentence: their least similar one, or the text as a whole."""
        if self.compare == "text":
            old, new = ([[" ".join(sentences)] for sentences in answers] for answers in (old, new))
        left, right = ([sentence for sentences in answers for sentence in sentences] for answers in (old, new))
        values = iter(_similarity.cosines(self._encode, left, right).tolist())
        return [min(next(values) for _ in sentences) for sentences in old]

    # ---- the record ------------------------------------------------------------------------------------------

    def _result(self, draft: _Draft) -> list[Record] | Drop:
        source = draft.source
        if not draft.text.strip():
            return Drop("model_wrote_nothing")
        if draft.cut_off:
            return Drop("cut_off", draft.text)
        if _similarity.words_of(draft.text) == _similarity.words_of(source.chosen):
            return Drop("never_differed", draft.text)
        meta = {
            "seed": self.seed,
            "tries": draft.attempt,
            "guided": draft.similarity is not None,
            "similarity": draft.similarity if draft.similarity is None else round(draft.similarity, 6),
            "similarities": [round(similarity, 6) for similarity in draft.similarities],
            "kept_tokens": int(draft.keep.sum()),
            "image_tokens": source.image_tokens,
        }
        return [source.answer.made("bdhs", meta, rejected=[assistant_message(draft.text)])]
