"""A benchmark of the embedded world's clips: what happens in them, in which order, and from when to when.

It reads what `mmalign.scenes.dataset.write_split` writes, ``questions/*.jsonl`` and ``clips.jsonl``::

    order    Does the red circle move before the blue star vanishes?                          No.
    first    What comes first: the blue star vanishes, or the red circle moves?               The blue star vanishes.
    event    What happens after the blue star vanishes?                                       The red circle moves.
    moment   Is there a blue star at the end of the clip?                                     No.
    story    Describe the clip.           First the blue star vanishes. Then the red circle moves. Last ...

All but stories have one right answer, word for word. All of them change if the clip is played backwards. A story is
read sentence by sentence::

    right      questions whose answer is the right one / questions, over all of them; of each kind in the groups
    invented   events told that do not happen in the clip / events told
    told       events of the clips that are told / events of the clips
    in_order   pairs of events of one clip, both told once, told in the order in which they happen / such pairs
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mmalign.benchmarks import Score, choose, ratio
from mmalign.benchmarks._files import join
from mmalign.records import Prediction, Question, RecordFile, read_jsonl, text_of

KINDS = ("order", "first", "event", "moment")
STORY = "story"
MAX_NEW_TOKENS = 64


def questions(root: Path, *, per_kind: int = 0) -> Iterator[Question]:
    """The questions of each kind, and then the stories.

    Args:
        root: folder of a split.
        per_kind: how many of each kind; 0 for all.
    """
    for kind in KINDS:
        asked = read_jsonl(Path(root) / "questions" / f"{kind}.jsonl", Question.parse)
        for question in itertools.islice(asked, per_kind or None):
            yield replace(question, id=f"{kind}:{question.id}")
    for record in itertools.islice(RecordFile(Path(root) / "clips.jsonl"), per_kind or None):
        gold = text_of(record.chosen)
        yield Question(f"{STORY}:{record.id}", record.prompt, videos=record.videos, gold=gold, meta={"type": STORY})


def events(story: str) -> list[str]:
    """What a story tells, without the words that say when: ``["the blue star vanishes", ...]``."""
    sentences = [sentence.strip().lower() for sentence in story.split(".")]
    return [sentence.removeprefix(sentence.split()[0]).strip() for sentence in sentences if sentence]


RULES = {"exact": events}


def score(questions: Iterable[Question], predictions: Iterable[Prediction], *, rule: str = "exact") -> Score:
    """See the head of this file for each number.

    Raises:
        InputError: an unknown rule, no questions, ids that are double or unknown.
    """
    read = choose("rule", RULES, rule)
    asked = list(questions)
    answers = join(asked, predictions)
    right: dict[str, list[bool]] = defaultdict(list)
    count: Counter[str] = Counter()
    for question in asked:
        text = answers[question.id] or ""
        if question.meta["type"] == STORY:
            count.update(_compared(read(question.gold), read(text)))
        else:
            right[question.meta["type"]].append(text.strip() == question.gold)
    every = [hit for hits in right.values() for hit in hits]
    return {
        "benchmark": "clips",
        "rule": rule,
        "metrics": {
            "right": ratio(sum(every), len(every)),
            "invented": ratio(count["invented"], count["said"]),
            "told": ratio(count["told"], count["happened"]),
            "in_order": ratio(count["in_order"], count["pairs"]),
        },
        "groups": {kind: {"right": ratio(sum(hits), len(hits))} for kind, hits in right.items()},
        "n_items": len(asked),
        "n_missing": sum(text is None for text in answers.values()),
        "n_unparsed": 0,
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
