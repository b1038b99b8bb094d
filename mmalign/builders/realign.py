"""Re-Align: a rejected answer, and a rejected picture, by way of a picture that looks alike.

Xing et al., "Re-Align: Aligning Vision Language Models via Retrieval-Augmented Direct Preference Optimization"
(arXiv 2502.13146), section 3 and algorithm 1. docs/builders/realign.md says where this differs from it, and why.

Segments of the good answer y_w are masked, and filled in again by the model while it looks at the source's nearest
neighbour among all pictures: what fits the neighbour and not the source is a likely mistake. The first neighbour that
gives another answer than y_w is the rejected picture as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from mmalign import endpoint, runs
from mmalign.backbones import Job
from mmalign.builders import WRITER, Drop, Unit, _answers, _masking, _rewriting, _sentences, _similarity
from mmalign.media.hashes import content_hash
from mmalign.plugins import check, option
from mmalign.records import InputError, Record, assistant_message, user_message
from mmalign.retrieval import Guard, Index, Neighbour

if TYPE_CHECKING:
    from mmalign.endpoint import Writer

Images = tuple[Image.Image, ...]

COMPLETE_PROMPT = "Please complete the following sentence based on the input image by filling in the masked segments."
MASK_PROMPTS = {
    "segment": "Please mask any words of the segments related to the objects, attributes, and logical relationships "
    "of the input image in the following description by replacing them with [MASK].",
    "sentence": "Please mask the sentences related to the objects, attributes, and logical relationships of the input "
    "image in the following description by replacing each of them as a whole with [MASK].",
}
"""What a model is asked for, by level. The one for sentences is not the paper's, which gives none."""


@dataclass(frozen=True)
class _Source:
    """A source, its neighbours from the nearest on, and why those before the current one were not taken."""

    answer: _answers.Answered
    neighbours: tuple[Neighbour, ...]
    masked: _masking.Masked | None
    refused: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.answer.record.id

    @property
    def rank(self) -> int:
        """Of the neighbour that is to be tried, from 0."""
        return len(self.refused)

    @property
    def neighbour(self) -> Neighbour:
        return self.neighbours[self.rank]

    def parts(self) -> list[_rewriting.Part]:
        """The sentences of y_w; those with a mask are open, and keep what stands before their first one."""
        text, spans, parts = self.answer.text, self.masked.spans, []
        for start, stop in _sentences.split(text):
            first = min((begin for begin, end in spans if begin < stop and end > start), default=None)
            kept = text[start:stop] if first is None else text[start:first].rstrip()
            parts.append(_rewriting.Part(start, stop, kept, open=first is not None))
        return parts


@dataclass(frozen=True)
class _Draft:
    """What came of a source's current neighbour: a text, or why it is not taken. Neither: the picture alone."""

    source: _Source
    text: str | None = None
    similarity: float | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class ReAlign:
    """Rejected answers and pictures by retrieval (Re-Align, arXiv 2502.13146, algorithm 1).

    Masked segments of the chosen answer, filled in while the model looks at the nearest other picture of an index;
    that picture is the rejected one.
    """

    wants: ClassVar[str] = WRITER

    index: str | None = option(None, "Folder of the index of pictures, as `mmalign index` writes it.")
    k: int = option(10, "Neighbours that are tried, from the nearest on.")
    tau: float = option(0.95, "A completed answer is taken if its similarity to the chosen one is below this.")
    sim_min: float | None = option(None, "And if it is at least this (default: no limit), which refusals are not.")
    encoder: str = option("words", "Measures it: words, sentence-transformers:NAME or path/to/file.py:Class.")
    compare: str = option("text", "What is compared: text (whole) or sentence (the least similar one decides).")
    image_similarity_max: float = option(
        Guard.similarity_max, "Pictures more alike than this show the same, and are no neighbours; 1 lets all pass."
    )
    image_similarity_min: float | None = option(None, "Pictures less alike than this are no neighbours.")
    same_content: bool = option(True, "Pass over neighbours that are the same picture under another name.")
    hash_distance: int | None = option(None, "Pass over those whose hash differs in at most so many of 64 bits.")
    mask_by: str = option("rule", "Who masks: rule, model (the one that completes), or another MODEL or URL#MODEL.")
    level: str = option("segment", "What is masked: segment (of a sentence) or sentence (whole).")
    mask_rate: float = option(0.5, "Share of the content words that the rule masks, at least.")
    mask_prompt: str | None = option(None, "What a model that masks is asked for (default: the paper's, by level).")
    complete_by: str = option(
        "prompt", "prompt: ask for the masks to be filled in; prefix: continue each sentence from its first mask."
    )
    complete_prompt: str = option(COMPLETE_PROMPT, "What the model is asked for, before the masked answer.")
    length_min: float = option(0.5, "A completed answer has at least this many times the words of the chosen one.")
    length_max: float = option(2.0, "And at most this many times.")
    visual_only: bool = option(False, "Only the rejected picture, that of the nearest neighbour; no rejected answer.")
    temperature: float = option(1.0, "Of the completed answer; 1 samples from the model as it is.")
    top_p: float = option(1.0, "Sample from the likeliest tokens that hold this much probability.")
    max_sentence_tokens: int = option(64, "Limit of what is written in one sentence, with prefix.")
    max_answer_tokens: int = option(512, "Limit of a whole answer: masked, completed, or one that a source lacks.")
    write_chosen: bool = option(True, "Let the model write, greedily, the chosen answer that a source lacks.")
    seed: int = option(0, "Another seed gives other masks and rejected answers.")

    def __post_init__(self) -> None:
        for name in ("k", "max_sentence_tokens", "max_answer_tokens"):
            check(self, name, getattr(self, name) >= 1, "1 or more")
        check(self, "sim_min", self.sim_min is None or self.sim_min < self.tau, f"below tau ({self.tau})")
        check(self, "compare", self.compare in ("text", "sentence"), "text or sentence")
        check(self, "level", self.level in MASK_PROMPTS, "segment or sentence")
        check(self, "mask_rate", 0 < self.mask_rate <= 1, "above 0 and at most 1")
        check(self, "complete_by", self.complete_by in ("prompt", "prefix"), "prompt or prefix")
        check(self, "length_min", 0 <= self.length_min <= 1, "from 0 to 1")
        check(self, "length_max", self.length_max >= 1, "1 or more")
        check(self, "temperature", self.temperature >= 0, "0 or more")
        check(self, "top_p", 0 < self.top_p <= 1, "above 0 and at most 1")
        _ = self._encode  # one that cannot be had is found out before any work is done

    def __call__(self, unit: Unit, model: Writer | None) -> Iterator[tuple[str, list[Record] | Drop]]:
        """Records ``SOURCE#realign``. Wave t shows every source that has no answer yet its t-th neighbour."""
        pending: list[_Source] = []
        for source in self._read(unit, model):
            if isinstance(source, _Source):
                pending.append(source)
            else:
                yield source
        while pending:
            drafts = self._wave(unit, model, pending)
            pending = []
            for draft in drafts:
                if draft.refusal is None:
                    yield draft.source.id, [self._record(draft)]
                    continue
                source = replace(draft.source, refused=(*draft.source.refused, draft.refusal))
                if source.rank < len(source.neighbours):
                    pending.append(source)
                else:
                    yield source.id, Drop("never_accepted", "; ".join(source.refused))

    def check(self, model: Writer | None) -> None:
        """Answers are completed by a model: only pictures alone can do without."""
        if model is None and not self.visual_only:
            raise InputError("is missing: it completes the answers (visual_only needs none)", field="model")

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the index, of a model that masks and what it is asked, and of an encoder's folder."""
        inputs = {"index": self._index.fingerprint(), **_similarity.inputs(self.encoder)}
        if self._has_masker:
            inputs["masker"] = self._masker.fingerprint()
        if self.mask_by != "rule" and not self.visual_only:
            inputs["mask_prompt"] = runs.fingerprint(self._mask_prompt)
        return inputs

    @staticmethod
    def outcome(record: Record) -> str:
        """The word under which a record is counted at the end of a run."""
        fell_back = record.meta.get("masked_by") == "rule" and record.meta["mask_tries"] > 0
        return f"neighbour {record.meta['rank']:>2}{' (masked by the rule after all)' if fell_back else ''}"

    # ---- sources ---------------------------------------------------------------------------------------------

    def _read(self, unit: Unit, model: Writer | None) -> Iterator[_Source | tuple[str, Drop]]:
        """Sources with one picture that has neighbours, with their answers masked."""
        neighbours: dict[str, tuple[Neighbour, ...]] = {}
        for record, found in self._neighbours(unit.items):
            if isinstance(found, Drop):
                yield record.id, found
            else:
                neighbours[record.id] = found
        records = [record for record in unit.items if record.id in neighbours]
        answers: list[_answers.Answered] = []
        options = {"write_chosen": self.write_chosen, "max_new_tokens": self.max_answer_tokens}
        for answer in _answers.read(unit, model, records, **options):
            if not isinstance(answer, _answers.Answered):
                yield answer
            elif self._is_indexed(answer.record.images[0], answer.images[0]):
                answers.append(answer)
            else:
                indexed = self._index.manifest["made_by"]["media_root"]
                detail = f"not the one that was indexed: the index is of {indexed}, this picture of {unit.media_root}"
                yield answer.record.id, Drop("other_picture", detail)
        masks = [None] * len(answers) if self.visual_only else self._masks(unit, model, answers)
        for answer, masked in zip(answers, masks, strict=True):
            if masked or self.visual_only:
                yield _Source(answer, neighbours[answer.record.id], masked)
            else:
                yield answer.record.id, Drop("nothing_to_mask", answer.text)

    def _neighbours(self, records: Sequence[Record]) -> Iterator[tuple[Record, tuple[Neighbour, ...] | Drop]]:
        single = [record for record in records if len(record.images) == 1]
        found = self._index.neighbours([record.images[0] for record in single], self.k, self._guard)
        nearest = {record.id: near for record, near in zip(single, found, strict=True)}
        for record in records:
            if record.id not in nearest:
                yield record, Drop("several_images" if record.images else "no_image")
            elif nearest[record.id] is None:
                yield record, Drop("not_in_index", f"{record.images[0]}; a name that is there: {self._a_name}")
            else:
                yield record, tuple(nearest[record.id]) or Drop("no_neighbour", "none that the guard lets pass")

    @cached_property
    def _index(self) -> Index:
        if not self.index:
            raise InputError("is missing: give --index, a folder that `mmalign index` has written", field="index")
        return Index.open(self.index)

    @cached_property
    def _a_name(self) -> str:
        return self._index.names[0]

    def _is_indexed(self, name: str, picture: Image.Image) -> bool:
        """Whether it is the picture that was indexed: similarities say nothing of another one of that name."""
        return self._index.contents([name]) == [content_hash(picture)]

    @property
    def _guard(self) -> Guard:
        most = self.image_similarity_max if self.image_similarity_max < 1 else None
        return Guard(most, self.image_similarity_min, self.same_content, self.hash_distance)

    # ---- masks -----------------------------------------------------------------------------------------------

    def _masks(
        self, unit: Unit, model: Writer | None, answers: Sequence[_answers.Answered]
    ) -> list[_masking.Masked | None]:
        """The answers masked: by a model that is asked once more where it fails, and by the rule after that."""
        masks: dict[str, _masking.Masked] = {}
        asked = 0
        if self.mask_by != "rule":
            masker = self._masker if self._has_masker else model
            for temperature in (0.0, self.temperature)[: 2 if self.temperature else 1]:
                asked += 1
                left = [answer for answer in answers if answer.record.id not in masks]
                for answer, text in zip(left, self._ask_for_masks(unit, masker, left, temperature), strict=True):
                    if masked := _masking.by_model(text, answer.text, asked):
                        masks[answer.record.id] = masked
        return [masks.get(answer.record.id) or self._by_rule(answer, asked) for answer in answers]

    def _ask_for_masks(
        self, unit: Unit, masker: Writer, answers: Sequence[_answers.Answered], temperature: float
    ) -> list[str]:
        jobs = [
            Job(
                [user_message(f"{self._mask_prompt}\n{answer.text}", images=1)],
                answer.images,
                seed=runs.stable_seed(self.seed, answer.record.id, "mask"),
                key=answer.record.id,
            )
            for answer in answers
        ]
        limits = {"max_new_tokens": self.max_answer_tokens, "temperature": temperature, "top_p": self.top_p}
        return unit.write(masker, jobs, **limits) if jobs else []

    def _by_rule(self, answer: _answers.Answered, asked: int) -> _masking.Masked | None:
        seed = runs.stable_seed(self.seed, answer.record.id, "rule")
        return _masking.by_rule(answer.text, self.level, self.mask_rate, seed, asked)

    @property
    def _mask_prompt(self) -> str:
        return self.mask_prompt or MASK_PROMPTS[self.level]

    @property
    def _has_masker(self) -> bool:
        return not self.visual_only and self.mask_by not in ("rule", "model")

    @cached_property
    def _masker(self) -> Writer:
        return endpoint.load_writer(self.mask_by)

    # ---- one wave --------------------------------------------------------------------------------------------

    def _wave(self, unit: Unit, model: Writer | None, sources: Sequence[_Source]) -> list[_Draft]:
        """What each source's current neighbour gives: nothing where its picture cannot be opened, or is another one."""
        drafts, shown = [], []
        for source in sources:
            picture = unit.images(replace(source.answer.record, images=(source.neighbour.name,)))
            if isinstance(picture, Drop):
                drafts.append(_Draft(source, refusal=picture.reason))
            elif not self._is_indexed(source.neighbour.name, picture[0]):
                drafts.append(_Draft(source, refusal="other_picture"))
            else:
                shown.append((source, picture))
        if self.visual_only:
            return drafts + [_Draft(source) for source, _ in shown]
        complete = self._by_prefix if self.complete_by == "prefix" else self._by_prompt
        return drafts + self._judged([source for source, _ in shown], complete(unit, model, shown))

    def _by_prompt(self, unit: Unit, model: Writer, shown: Sequence[tuple[_Source, Images]]) -> list[str]:
        """Masked answers filled in by a model that was asked to."""
        jobs = [
            Job(
                [user_message(f"{self.complete_prompt}\n{source.masked.text}", images=1)],
                picture,
                seed=self._seed(source, 0),
                key=source.id,
            )
            for source, picture in shown
        ]
        limits = {"max_new_tokens": self.max_answer_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return [text.strip() for text in unit.write(model, jobs, **limits)] if jobs else []

    def _by_prefix(self, unit: Unit, model: Writer, shown: Sequence[tuple[_Source, Images]]) -> list[str]:
        """Answers whose sentences are written on from their first mask, each after the true text before it.

        One with a sentence that the model left without an ending is empty.
        """
        cuts = [source.parts() for source, _ in shown]
        jobs = [
            Job(source.answer.record.prompt, picture, part.prefix(source.answer.text), self._seed(source, number),
                key=source.id)
            for (source, picture), parts in zip(shown, cuts, strict=True)
            for number, part in enumerate(parts)
            if part.open
        ]  # fmt: skip
        limits = {"max_new_tokens": self.max_sentence_tokens, "temperature": self.temperature, "top_p": self.top_p}
        texts = iter(unit.write(model, jobs, stop=_sentences.ended, **limits) if jobs else ())
        return [_rejoined(source.answer.text, parts, texts) for (source, _), parts in zip(shown, cuts, strict=True)]

    def _seed(self, source: _Source, number: int) -> int:
        return runs.stable_seed(self.seed, source.id, source.rank, number)

    def _judged(self, sources: Sequence[_Source], texts: Sequence[str]) -> list[_Draft]:
        similarities = self._similarities([source.answer.text for source in sources], texts)
        drafts = []
        for source, text, similarity in zip(sources, texts, similarities, strict=True):
            refusal = _masking.flaw(text, source.answer.text, self.length_min, self.length_max)
            if refusal is None and similarity >= self.tau:
                refusal = f"too_similar ({similarity:.3f})"
            elif refusal is None and self.sim_min is not None and similarity < self.sim_min:
                refusal = f"too_different ({similarity:.3f})"
            drafts.append(_Draft(source, text, similarity, refusal))
        return drafts

    @cached_property
    def _encode(self) -> _similarity.Encoder:
        return _similarity.load_encoder(self.encoder)

    def _similarities(self, old: Sequence[str], new: Sequence[str]) -> list[float]:
        """Of two versions of answers: as whole texts, or their least similar sentence where they have as many."""
        pairs = [self._compared(*texts) for texts in zip(old, new, strict=True)]
        left, right = ([pair[side] for answer in pairs for pair in answer] for side in (0, 1))
        values = iter(_similarity.cosines(self._encode, left, right).tolist() if left else ())
        return [min(next(values) for _ in answer) for answer in pairs]

    def _compared(self, old: str, new: str) -> list[tuple[str, str]]:
        if self.compare == "sentence":
            before, after = ([text[start:end] for start, end in _sentences.split(text)] for text in (old, new))
            if len(before) == len(after):
                return list(zip(before, after, strict=True))
        return [(old, new)]

    # ---- the record ------------------------------------------------------------------------------------------

    def _record(self, draft: _Draft) -> Record:
        source = draft.source
        meta = {
            "seed": self.seed,
            "rank": source.rank + 1,
            "image_similarity": round(float(source.neighbour.similarity), 6),
            **({"refused": list(source.refused)} if source.refused else {}),
        }
        if masked := source.masked:
            meta |= {
                "similarity": round(draft.similarity, 6),
                "masked": masked.text,
                "mask_ratio": masked.ratio,
                "masked_by": masked.by,
                "mask_tries": masked.asked,
            }
        rejected = None if draft.text is None else [assistant_message(draft.text)]
        return source.answer.made("realign", meta, rejected=rejected, rejected_images=(source.neighbour.name,))


def _rejoined(answer: str, parts: Sequence[_rewriting.Part], texts: Iterator[str]) -> str:
    """``answer`` with its open sentences ended by the next of ``texts``; empty if one of them stayed without."""
    sentences = [_rewriting.join(answer, part, next(texts) if part.open else "") for part in parts]
    if _rewriting.lacks_ending(parts, sentences):
        return ""
    return _rewriting.rebuild(answer, parts, sentences)
