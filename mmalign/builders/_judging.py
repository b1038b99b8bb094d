"""Answers judged by a scorer, beside the true one: options of builders that keep what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mmalign import endpoint, plugins, rewards, runs
from mmalign.builders import Drop, Unit
from mmalign.builders._frames import Frames
from mmalign.endpoint import Writer
from mmalign.plugins import check, option
from mmalign.records import InputError, Record, assistant_message, text_of, user_message
from mmalign.rewards.faithful import Faithful

NONE, TRUTH, MODEL = "none", "truth", "model"

TRUTH_PROMPT = """\
Here is a question with its correct answer, and the answer that someone gave. The given answer is right if it says \
what the correct answer says, in whatever words. It is wrong if it tells of other things, actions, attributes, numbers \
or places, or of another order.

{question}

Given answer: {answer}

Is the given answer right? Say Yes or No, and nothing else."""
"""What the judge `TRUTH` is asked; the correct answer stands below the question."""


class Case(NamedTuple):
    """An answer that was given to a source's question in one of several attempts, and the true one."""

    record: Record
    attempt: int
    truth: str
    answer: str


@dataclass(frozen=True)
class Judging(Frames):
    """Who says whether an answer is wrong."""

    judge: str = option(
        NONE, "Who judges open answers: none, truth, faithful, judge, recorded or path/to/file.py:Class."
    )
    judge_model: str = option(MODEL, "What judges: model (the one that answers), or another MODEL or URL#MODEL.")
    judge_prompt: str | None = option(None, "What it is asked (default: that of the judge).")
    judge_file: str | None = option(None, "Of recorded: the JSONL file of scores.")
    threshold: float = option(0.5, "An answer is wrong if the judge's score of it is below this.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "threshold", math.isfinite(self.threshold), "a number")
        _ = self._reward  # one that cannot be had is found out before any work is done

    @property
    def has_judge(self) -> bool:
        """Whether there is one."""
        return self._reward is not None

    def judge_inputs(self) -> dict[str, str]:
        """Fingerprints of what the judge is asked, of a model that only judges, and of recorded scores."""
        if self._reward is None:
            return {}
        inputs = {"judge_prompt": runs.fingerprint(getattr(self._reward, "prompt", None))}
        if self.judge_model != MODEL:
            inputs["judge_model"] = self._judging_model.fingerprint()
        if self.judge_file:
            inputs["judge_file"] = runs.fingerprint(Path(self.judge_file))
        return inputs

    def scores_of(self, unit: Unit, model: Writer, cases: Sequence[Case]) -> list[float | Drop]:
        """How right the judge finds each answer, in the order of ``cases``; larger is better.

        A pairwise judge compares the true answer with the given one; the score is how likely the given one is better.
        """
        scorer = self._scorer(unit, model)
        return [
            self._score_of(case, said) for case, said in zip(cases, scorer.score(map(self._held, cases)), strict=True)
        ]

    def _held(self, case: Case) -> Record:
        """What the scorer reads: the answer, and what it is held against."""
        record, said = case.record, [assistant_message(case.answer)]
        name = f"{record.id}#{case.attempt}"
        if self.judge == TRUTH:
            question = f"Question: {text_of(record.prompt)}\n\nCorrect answer: {case.truth}"
            return Record(name, [user_message(question)], said)
        sides = (record.chosen, said) if self._reward.pairwise else (said, None)
        return Record(name, record.prompt, *sides, images=record.images, videos=record.videos)

    def _score_of(self, case: Case, said: rewards.Scored) -> float | Drop:
        if len(said.scores) != 1:
            why = said.text or f"{len(said.scores)} scores, expected one"
            return Drop("unscored", f"{said.id}: {why}: {case.answer}")
        [score] = said.scores.values()
        return round(1 - score, rewards.DIGITS) if self._reward.pairwise else score

    @cached_property
    def _reward(self) -> rewards.Reward | None:
        """The judge with its options; None where there is none."""
        given = {"prompt": self.judge_prompt, "file": self.judge_file}
        given = {name: value for name, value in given.items() if value is not None}
        if self.judge == NONE:
            return None
        kind = Faithful if self.judge == TRUTH else plugins.find_class(rewards.__name__, self.judge)
        if unknown := given.keys() - {each.name for each in fields(kind)}:
            raise InputError(
                f"is given, but the judge {self.judge} has no {min(unknown)}", field=f"judge_{min(unknown)}"
            )
        try:
            return kind(**{**({"prompt": TRUTH_PROMPT} if self.judge == TRUTH else {}), **given})
        except InputError as error:
            raise InputError(error.problem, field=f"judge_{error.field}" if error.field in given else "judge") from None

    @cached_property
    def _judging_model(self) -> Writer:
        return endpoint.load_writer(self.judge_model)

    @cached_property
    def _scorers(self) -> dict[tuple[Any, Path, int], rewards.Scorer]:
        return {}

    def _scorer(self, unit: Unit, model: Writer) -> rewards.Scorer:
        """Set up once for all units."""
        key = (model, unit.media_root, unit.batch_size)
        if key not in self._scorers:
            self._scorers[key] = self._reward(
                model if self.judge_model == MODEL else self._judging_model,
                media_root=unit.media_root,
                batch_size=unit.batch_size,
                frames=self.choice,
            )
        return self._scorers[key]
