"""A benchmark of the embedded world's clips: what happens in them, in which order, and from when to when.

It reads the questions that `mmalign.scenes.dataset.write_split` writes::

    order    Does the red circle move before the blue star vanishes?                          No.
    first    What comes first: the blue star vanishes, or the red circle moves?               The blue star vanishes.
    event    What happens after the blue star vanishes?                                       The red circle moves.
    moment   Is there a blue star at the end of the clip?                                     No.

Each has one right answer, word for word, and all of them change if the clip is played backwards. ``right`` is the share
of answers that are, over all questions and for each kind.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mmalign.benchmarks import Score, choose, ratio
from mmalign.benchmarks._files import join
from mmalign.records import Prediction, Question, read_jsonl

KINDS = ("order", "first", "event", "moment")
MAX_NEW_TOKENS = 32


def questions(root: Path, *, per_kind: int = 0) -> Iterator[Question]:
    """The questions of each kind.

    Args:
        root: folder of a split.
        per_kind: how many of each; 0 for all.
    """
    for kind in KINDS:
        asked = read_jsonl(Path(root) / "questions" / f"{kind}.jsonl", Question.parse)
        for question in itertools.islice(asked, per_kind or None):
            yield replace(question, id=f"{kind}:{question.id}")


RULES = {"exact": str.strip}


def score(questions: Iterable[Question], predictions: Iterable[Prediction], *, rule: str = "exact") -> Score:
    """The share of right answers.

    Raises:
        InputError: an unknown rule, no questions, ids that are double or unknown.
    """
    read = choose("rule", RULES, rule)
    asked = list(questions)
    answers = join(asked, predictions)
    right: dict[str, list[bool]] = defaultdict(list)
    for question in asked:
        right[question.meta["type"]].append(read(answers[question.id] or "") == question.gold)
    every = [hit for hits in right.values() for hit in hits]
    return {
        "benchmark": "clip_questions",
        "rule": rule,
        "metrics": {"right": ratio(sum(every), len(every))},
        "groups": {kind: {"right": ratio(sum(hits), len(hits))} for kind, hits in right.items()},
        "n_items": len(asked),
        "n_missing": sum(text is None for text in answers.values()),
        "n_unparsed": 0,
    }
