"""POPE: is this object in the picture? Yes or no, half of each, with ever more tempting absent objects.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (arXiv 2305.10355). Official
files and scorer: https://github.com/RUCAIBox/POPE (``output/coco/*.json``, ``evaluate.py``). One question of
``coco_pope_random.json``, which in spite of its name holds one JSON object a line (others of that project
hold one array; both are read)::

    {"question_id": 2, "image": "COCO_val2014_000000310196.jpg", "label": "no",
     "text": "Is there a car in the image?"}

A split's name (random, popular, adversarial) is taken from the file's name. Question ids repeat from split to
split, so ours are ``random/2``.

Positive is "yes". Precision is over the answers read as yes, recall over the questions whose label is yes,
accuracy and yes_ratio over all questions; the headline numbers are means over the splits. The official scorer
does not guard its divisions: here a ratio over nothing is 0.0. An answer that is missing, or that a rule
cannot read, is neither yes nor no: it is wrong, and stays in the denominators of accuracy, recall and
yes_ratio.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from mmalign.benchmarks import Score, choose, ratio
from mmalign.benchmarks._files import field, join, read_rows, read_text_predictions, string_field
from mmalign.records import InputError, Prediction, Question, user_message, write_jsonl

SPLITS = ("random", "popular", "adversarial")
PROMPTS = {"official": "", "short": "\nAnswer the question using a single word or phrase."}
"""What follows the question: nothing, as in the paper, or the line that LLaVA and lmms-eval add."""
MAX_NEW_TOKENS = 64


def questions(root: Path, *, prompt: str = "official") -> Iterator[Question]:
    """The questions of one official file, or of a folder with one file for each split.

    Args:
        root: a file, or a folder whose files ``*random*``, ``*popular*`` and ``*adversarial*`` are read.
        prompt: a key of `PROMPTS`.

    Raises:
        InputError: nothing to read, two files for one split, a field that is missing or wrong, an id twice.
    """
    suffix = choose("prompt", PROMPTS, prompt)
    for split, path in _split_files(Path(root)).items():
        seen: set[str] = set()
        for number, row in read_rows(path):
            question = _question(row, split, suffix, path, number)
            if question.id in seen:
                raise InputError(f"a second {question.id}", file=path, line=number, field="question_id")
            seen.add(question.id)
            yield question


def _split_files(root: Path) -> dict[str, Path]:
    """The file of each split. A single file may have any name; a folder is searched for the three."""
    if root.is_file():
        return {_split_of(root) or root.stem: root}
    if not root.is_dir():
        raise InputError("no such file or folder", file=root)
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.iterdir() if p.suffix in {".json", ".jsonl"} and _split_of(p)):
        if other := found.get(_split_of(path)):
            raise InputError(f"two files for the split {_split_of(path)}: {other.name}, {path.name}", file=root)
        found[_split_of(path)] = path
    if not found:
        raise InputError(f"no .json or .jsonl file with {', '.join(SPLITS)} in its name", file=root)
    return {split: found[split] for split in SPLITS if split in found}


def _split_of(path: Path) -> str:
    return next((split for split in SPLITS if split in path.stem), "")


def _question(row: dict[str, Any], split: str, suffix: str, path: Path, number: int) -> Question:
    image, text, label = (string_field(row, name, path, number) for name in ("image", "text", "label"))
    if label not in {"yes", "no"}:
        raise InputError(f"expected yes or no, found {label!r}", file=path, line=number, field="label")
    question_id = str(field(row, "question_id", path, number))
    return Question(
        id=f"{split}/{question_id}",
        prompt=[user_message(text + suffix, images=1)],
        images=(image,),
        gold=label,
        meta={"split": split, "question_id": question_id, "question": text},
    )


def read_predictions(path: Path, questions: Iterable[Question]) -> list[Prediction]:
    """Predictions from our own file, or from answer files in the shapes of the official scorers.

    Three shapes, told apart by the first row: ``id`` and ``text`` (ours); ``question_id`` and ``text``
    (LLaVA); ``answer`` (POPE's own), which name no id and so are joined by order: only where there are as
    many answers as questions, and only where a row that repeats its question (``question``, ``prompt``)
    repeats the right one. The last two say nothing of the split: give the questions of one split, or a folder
    that holds one answer file for each.

    Raises:
        InputError: another shape, or answers that do not belong to these questions.
    """
    path, questions = Path(path), list(questions)
    if not path.is_dir():
        return _read_answers(path, questions)
    answers: list[Prediction] = []
    for split, file in _split_files(path).items():
        answers += _read_answers(file, [q for q in questions if q.meta["split"] == split])
    return answers


def _read_answers(path: Path, questions: Sequence[Question]) -> list[Prediction]:
    rows = list(read_rows(path))
    if not rows:
        return []
    first = rows[0][1]
    if "id" in first:
        return read_text_predictions(path, "id", "text")
    if "question_id" in first and "text" in first:
        return _join_by_question_id(path, rows, questions)
    if "answer" in first:
        return _join_by_order(path, rows, questions)
    raise InputError("expected id and text, question_id and text, or answer", file=path, line=rows[0][0])


def _join_by_question_id(
    path: Path, rows: Sequence[tuple[int, dict]], questions: Sequence[Question]
) -> list[Prediction]:
    by_id = {q.meta["question_id"]: q for q in questions}
    if len(by_id) < len(questions):
        raise InputError(
            "question_id does not say which split is meant: score the splits one by one, or give a folder "
            "with one answer file for each",
            file=path,
            field="question_id",
        )
    predictions = []
    for number, row in rows:
        question_id = str(field(row, "question_id", path, number))
        if question_id not in by_id:
            raise InputError(f"no question {question_id}", file=path, line=number, field="question_id")
        predictions.append(_prediction(row, "text", by_id[question_id], path, number))
    return predictions


def _join_by_order(path: Path, rows: Sequence[tuple[int, dict]], questions: Sequence[Question]) -> list[Prediction]:
    if len(rows) != len(questions):
        raise InputError(
            f"{len(rows)} answers without ids for {len(questions)} questions: they cannot be joined by order",
            file=path,
        )
    return [
        _prediction(row, "answer", question, path, number)
        for (number, row), question in zip(rows, questions, strict=True)
    ]


def _prediction(row: dict[str, Any], key: str, question: Question, path: Path, number: int) -> Prediction:
    asked = row.get("question", row.get("prompt"))
    if isinstance(asked, str) and question.meta["question"] not in asked:
        raise InputError(f"answers {asked!r}, but its place is that of {question.id}", file=path, line=number)
    text = string_field(row, key, path, number)
    if text == question.meta["question"]:
        raise InputError("repeats the question: is this the file of questions?", file=path, line=number, field=key)
    return Prediction(id=question.id, text=text)


def official(text: str) -> str | None:
    """The rule of the official evaluate.py: a token No, not or no before the first full stop is no, else yes.

    So "NO", "Not a dog" and an empty answer are yes, by its letter.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if not {"No", "not", "no"}.isdisjoint(words) else "yes"


def exact(text: str) -> str | None:
    """Yes or no and nothing else, ignoring case and outer white space (as lmms-eval reads POPE)."""
    answer = text.strip().lower()
    return answer if answer in {"yes", "no"} else None


def xor(text: str) -> str | None:
    """Whichever of the words yes and no occurs, ignoring case; None where both do or neither does."""
    found = {"yes", "no"}.intersection(re.findall(r"\w+", text.lower()))
    return found.pop() if len(found) == 1 else None


RULES: dict[str, Callable[[str], str | None]] = {"official": official, "exact": exact, "xor": xor}


def score(questions: Iterable[Question], predictions: Iterable[Prediction], *, rule: str = "official") -> Score:
    """Accuracy, precision, recall, F1 and yes-ratio of each split, and their means over the splits.

    Under the official rule every answer is read, garbage as yes; ``n_unparsed`` then counts the answers that
    are yes by default only, having no word yes.

    Raises:
        InputError: an unknown rule, no questions, ids that are double or unknown.
    """
    read = choose("rule", RULES, rule)
    questions = list(questions)
    answers = join(questions, predictions)
    splits: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for question in questions:
        text = answers[question.id]
        splits[question.meta["split"]].append((question.gold, None if text is None else read(text)))
    groups = {split: _metrics(pairs) for split, pairs in splits.items()}
    given = [text for text in answers.values() if text is not None]
    return {
        "benchmark": "pope",
        "rule": rule,
        "metrics": {name: fmean(g[name] for g in groups.values()) for name in next(iter(groups.values()))},
        "groups": groups,
        "n_items": len(questions),
        "n_missing": len(questions) - len(given),
        "n_unparsed": sum(_is_unparsed(text, read) for text in given),
    }


def _metrics(pairs: Sequence[tuple[str, str | None]]) -> dict[str, float]:
    """The five numbers of one split from its pairs of label and answer."""
    count = Counter(pairs)
    true_yes, said_yes = count["yes", "yes"], count["yes", "yes"] + count["no", "yes"]
    precision = ratio(true_yes, said_yes)
    recall = ratio(true_yes, sum(gold == "yes" for gold, _ in pairs))
    return {
        "accuracy": ratio(true_yes + count["no", "no"], len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": ratio(2 * precision * recall, precision + recall),
        "yes_ratio": ratio(said_yes, len(pairs)),
    }


def _is_unparsed(text: str, read: Callable[[str], str | None]) -> bool:
    answer = read(text)
    return answer is None or (read is official and answer == "yes" and "yes" not in re.findall(r"\w+", text.lower()))


ObjectMap = Mapping[str, Sequence[str]]
"""Names of the objects in each picture: ``{image: [names]}``."""


def build_questions(
    objects: ObjectMap, *, split: str, per_image: int = 6, seed: int = 0, statistics: ObjectMap | None = None
) -> list[dict[str, Any]]:
    """Balanced questions in the official format for any pictures whose objects are known.

    For each picture, up to ``per_image / 2`` of its objects, and as many that are not in it: drawn at random,
    the most frequent ones (popular), or those that occur most often together with its own (adversarial).
    A picture asks the same about what is there in every split. One with no object, or with all of them, asks
    nothing, so half of all labels are yes.

    Args:
        objects: the pictures to ask about.
        split: random, popular or adversarial.
        per_image: questions for each picture at most; even.
        seed: of both draws.
        statistics: where names are counted for popular and adversarial, normally the training part, so that
            the questions tempt with what a model has learnt; ``objects`` itself by default.

    Raises:
        InputError: an unknown split, or ``per_image`` that is odd or less than 2.
    """
    if split not in SPLITS:
        raise InputError(f"no split {split!r} (there is: {', '.join(SPLITS)})")
    if per_image < 2 or per_image % 2:
        raise InputError(f"per_image must be even and at least 2, not {per_image}")
    temptation = _Temptation(statistics or objects, {name for names in objects.values() for name in names})
    rows: list[dict[str, Any]] = []
    for image in sorted(objects):
        present = sorted(set(objects[image]))
        absent = temptation.absent(present, split, Random(f"{seed}:{image}:absent"))
        count = min(per_image // 2, len(present), len(absent))
        asked = Random(f"{seed}:{image}:present").sample(present, count)
        for there, not_there in zip(asked, absent[:count], strict=True):
            for name, label in ((there, "yes"), (not_there, "no")):
                rows.append({"question_id": len(rows) + 1, "image": image, "text": ask(name), "label": label})
    return rows


class _Temptation:
    """How tempting each name is, by how often it occurs and what it occurs with."""

    def __init__(self, statistics: ObjectMap, others: set[str]) -> None:
        self.frequency: Counter[str] = Counter(dict.fromkeys(others, 0))
        self.together: dict[str, Counter[str]] = defaultdict(Counter)
        for names in map(set, statistics.values()):
            self.frequency.update(names)
            for name in names:
                self.together[name].update(names - {name})

    def absent(self, present: Sequence[str], split: str, random: Random) -> list[str]:
        """Names that are not ``present``, the first to be asked first."""
        candidates = sorted(set(self.frequency).difference(present))
        if split == "random":
            return random.sample(candidates, len(candidates))
        if split == "popular":
            return sorted(candidates, key=lambda name: -self.frequency[name])
        company = Counter(candidates)
        for name in present:
            company.update({other: self.together[name][other] for other in candidates})
        return sorted(candidates, key=lambda name: (-company[name], -self.frequency[name]))


def ask(name: str) -> str:
    """POPE's question about one object name."""
    return f"Is there {'an' if name[0].lower() in 'aeiou' else 'a'} {name} in the image?"


def write_questions(
    folder: Path,
    objects: ObjectMap,
    *,
    per_image: int = 6,
    seed: int = 0,
    statistics: ObjectMap | None = None,
) -> dict[str, int]:
    """Write ``pope_random.json``, ``pope_popular.json`` and ``pope_adversarial.json`` into ``folder``.

    Returns:
        How many questions each split has. For the arguments see `build_questions`.
    """
    counts = {}
    for split in SPLITS:
        rows = build_questions(objects, split=split, per_image=per_image, seed=seed, statistics=statistics)
        write_jsonl(Path(folder) / f"pope_{split}.json", rows)
        counts[split] = len(rows)
    return counts
