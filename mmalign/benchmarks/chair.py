"""CHAIR: how many of the objects that a caption names are not in the picture.

Rohrbach et al., "Object Hallucination in Image Captioning" (arXiv 1809.02156). Official scorer:
https://github.com/LisaAnne/Hallucination (``utils/chair.py``). That one finds COCO objects with COCO's own
annotations, a list of synonyms and the quirks of one tagger's singulariser, none of which is part of this
package. So no rule here is called official: the rule ``map`` takes CHAIR's definitions to any pictures whose
objects are known, a JSON file like::

    {"images/12-0.png": ["blue square", "yellow circle"], "images/12-1.png": ["black square"]}

and optionally a file of synonyms in the official shape, one object a line, its name first::

    bicycle, bike, pushbike

Mentions: the caption's words, lower-case and singular, are read from left to right; at each place the longest
name or synonym counts. Repeats count, as officially.

    chair_i    mentions of objects that are not in the picture / all mentions, over the corpus
    chair_s    captions with at least one such mention / captions
    recall     distinct objects of the pictures that their captions name / distinct objects of the pictures
    words      mean length of a caption in words
    mentions   mean number of mentions in a caption

A picture without a caption counts for recall alone, where it names nothing. Read recall beside chair_i: a
model that says nothing hallucinates nothing. A ratio over nothing is 0.0. `n_unparsed` counts the captions
that name no known object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mmalign.benchmarks import Score, choose, ratio
from mmalign.benchmarks._files import join, read_map, read_rows, read_text_predictions, read_utf8
from mmalign.benchmarks._words import tokens
from mmalign.records import InputError, Prediction, Question, user_message

PROMPT = "Please describe this image in detail."
MAX_NEW_TOKENS = 512

Mention = tuple[int, int, str]
"""Start and end (exclusive) of a mention in the caption's characters, and the name of its object."""


def questions(root: Path, *, prompt: str = PROMPT, synonyms: Path | None = None) -> Iterator[Question]:
    """One request for a caption for each picture of a map.

    ``meta["objects"]`` holds the picture's objects by their names in ``meta["vocabulary"]``, which all
    questions share: every name of the map and every synonym. So score the whole map at once: with fewer
    pictures, names that only the others hold would go unseen.

    Args:
        root: the JSON map, or a folder that holds it as ``objects.json``.
        prompt: what the model is asked.
        synonyms: a file with one object a line, its name and then its synonyms, separated by commas.

    Raises:
        InputError: a file that is missing or wrong, or a synonym of two objects.
    """
    path = Path(root) / "objects.json" if Path(root).is_dir() else Path(root)
    objects = read_map(path)
    lines = read_synonyms(Path(synonyms)) if synonyms else []
    names = vocabulary((name for present in objects.values() for name in present), lines)
    for image, present in objects.items():
        yield Question(
            id=image,
            prompt=[user_message(prompt, images=1)],
            images=(image,),
            meta={"objects": sorted({names[_phrase(name)] for name in present}), "vocabulary": names},
        )


def read_synonyms(path: Path) -> list[list[str]]:
    """Lines of ``name, synonym, ...``; stray spaces and doubles, as in the official file, are dropped."""
    rows = ([word.strip() for word in line.split(",")] for line in read_utf8(path).splitlines())
    return [list(dict.fromkeys(word for word in row if word)) for row in rows if any(row)]


def vocabulary(names: Iterable[str], synonyms: Iterable[list[str]] = ()) -> dict[str, str]:
    """What `mentions` looks for: each phrase, in singular lower-case words, and the name that it stands for.

    Raises:
        InputError: a phrase that stands for two names, or a name without a letter or digit.
    """
    found: dict[str, str] = {}
    for node, *others in synonyms:
        for word in (node, *others):
            if found.setdefault(_phrase(word), node) != node:
                raise InputError(f"{word!r} is a synonym of both {found[_phrase(word)]!r} and {node!r}")
    for name in sorted(set(names)):
        found.setdefault(_phrase(name), name)
    return found


def _phrase(name: str) -> str:
    phrase = " ".join(word for _, _, word in tokens(name))
    if not any(character.isalnum() for character in phrase):
        raise InputError(f"no object name: {name!r}")
    return phrase


def mentions(text: str, vocabulary: Mapping[str, str]) -> list[Mention]:
    """The objects that ``text`` names, from left to right, each where it stands.

    This is the official merge of double words made general: a name may have any number of words, and where
    several begin at one word the longest counts, so "hot dog" is no dog.
    """
    words = list(tokens(text))
    longest = max((phrase.count(" ") + 1 for phrase in vocabulary), default=0)
    found: list[Mention] = []
    place = 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            run = words[place : place + length]
            if name := vocabulary.get(" ".join(word for _, _, word in run)):
                found.append((run[0][0], run[-1][1], name))
                place += length
                break
        else:
            place += 1
    return found


def hallucinated(question: Question, text: str) -> list[Mention]:
    """The mentions of a caption whose objects are not in the question's picture."""
    present = set(question.meta["objects"])
    return [mention for mention in mentions(text, question.meta["vocabulary"]) if mention[2] not in present]


def read_predictions(path: Path, questions: Iterable[Question]) -> list[Prediction]:
    """Predictions from our own file (``id``, ``text``) or the common one (``image_id``, ``caption``)."""
    first = next((row for _, row in read_rows(Path(path))), {})
    keys = ("image_id", "caption") if "caption" in first else ("id", "text")
    return read_text_predictions(Path(path), *keys)


RULES = {"map": mentions}


def score(questions: Iterable[Question], predictions: Iterable[Prediction], *, rule: str = "map") -> Score:
    """CHAIR over the captions of these pictures; see the head of this file for each number.

    Raises:
        InputError: an unknown rule, no questions, ids that are double or unknown.
    """
    find = choose("rule", RULES, rule)
    questions = list(questions)
    answers = join(questions, predictions)
    captions = hallucinating = words = named = wrong = silent = covered = present = 0
    for question in questions:
        objects = set(question.meta["objects"])
        present += len(objects)
        text = answers[question.id]
        if text is None:
            continue
        found = [name for _, _, name in find(text, question.meta["vocabulary"])]
        false = sum(name not in objects for name in found)
        captions += 1
        hallucinating += false > 0
        words += len(text.split())
        named += len(found)
        wrong += false
        silent += not found
        covered += len(objects.intersection(found))
    return {
        "benchmark": "chair",
        "rule": rule,
        "metrics": {
            "chair_i": ratio(wrong, named),
            "chair_s": ratio(hallucinating, captions),
            "recall": ratio(covered, present),
            "words": ratio(words, captions),
            "mentions": ratio(named, captions),
        },
        "groups": {},
        "n_items": len(questions),
        "n_missing": len(questions) - captions,
        "n_unparsed": silent,
    }
