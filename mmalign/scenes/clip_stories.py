"""A benchmark of what is told of the embedded world's clips: which events, and in which order.

It asks for the stories in ``clips.jsonl`` of a split (`mmalign.scenes.dataset.write_split`)::

    Describe the clip.    First the blue star vanishes. Then the red circle moves. Last the star hits the circle.

A sentence is an event, whatever the word that it begins with:

    invented   events told that do not happen in the clip / events told
    told       events of the clips that are told / events of the clips
    in_order   pairs of events of one clip, both told once, told in the order in which they happen / such pairs
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmalign.benchmarks import Score, choose, ratio
from mmalign.benchmarks._files import join
from mmalign.records import Prediction, Question, RecordFile, text_of

MAX_NEW_TOKENS = 96


def questions(root: Path, *, count: int = 0) -> Iterator[Question]:
    """A request for the story of each clip.

    Args:
        root: folder of a split.
        count: of how many clips; 0 for all.
    """
    for record in itertools.islice(RecordFile(Path(root) / "clips.jsonl"), count or None):
        yield Question(record.id, record.prompt, videos=record.videos, gold=text_of(record.chosen))


def events(story: str) -> list[str]:
    """What a story tells, without the words that say when: ``["the blue star vanishes", ...]``."""
    sentences = [sentence.strip().lower() for sentence in story.split(".")]
    return [sentence.removeprefix(sentence.split()[0]).strip() for sentence in sentences if sentence]


RULES = {"events": events}


def score(questions: Iterable[Question], predictions: Iterable[Prediction], *, rule: str = "events") -> Score:
    """See the head of this file for each number. A clip without a story counts for what is told alone.

    Raises:
        InputError: an unknown rule, no questions, ids that are double or unknown.
    """
    read = choose("rule", RULES, rule)
    asked = list(questions)
    answers = join(asked, predictions)
    count: Counter[str] = Counter()
    for question in asked:
        count.update(_compared(read(question.gold), read(answers[question.id] or "")))
    return {
        "benchmark": "clip_stories",
        "rule": rule,
        "metrics": {
            "invented": ratio(count["invented"], count["said"]),
            "told": ratio(count["told"], count["happened"]),
            "in_order": ratio(count["in_order"], count["pairs"]),
        },
        "groups": {},
        "n_items": len(asked),
        "n_missing": sum(text is None for text in answers.values()),
        "n_unparsed": sum(text is not None and not read(text) for text in answers.values()),
    }


def _compared(happened: list[str], said: list[str]) -> dict[str, int]:
    """What a story adds to each count."""
    true = set(happened)
    once = [event for event in happened if said.count(event) == 1]
    pairs = list(itertools.combinations(once, 2))
    return {
        "said": len(said),
        "invented": sum(event not in true for event in said),
        "happened": len(true),
        "told": len(true.intersection(said)),
        "pairs": len(pairs),
        "in_order": sum(said.index(first) < said.index(second) for first, second in pairs),
    }
