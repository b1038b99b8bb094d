"""ms-swift: messages with a rejected response or rejected media, and paths of media.

Layout as in ms-swift 4.6.0 (its page "Custom Dataset", ``swift/template/template_inputs.py``)::

    {"messages": [{"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": "A cat."}],
     "rejected_response": "A dog.", "images": ["a.png"], "margin": 1.5}
    {"messages": [...], "images": ["a.png"], "rejected_images": ["b.png"]}
    {"messages": [...], "images": ["a.png"], "rejected_messages": [...], "rejected_images": ["a.png"]}

A row is one pair, whose rejected side is ``rejected_messages`` with the ``rejected_`` media beside it; without them,
the prompt with ``rejected_response``, and whatever else is not given is as on the chosen side.

Read: a pair that differs in one thing. Another answer is ``rejected``, other media for the same answer are
``rejected_images`` and ``rejected_videos``, another prompt for the same answer is ``rejected_prompt``; a row whose
sides differ in two of them compares what a record does not, and is dropped. So is one whose ``rejected_messages`` come
without the ``rejected_`` media, where the chosen side has some: its page asks for them. A bare ``margin`` m is a reward
of m against 0. ``label`` says which side a row without a rejected one is (KTO). Media without a tag stand in front, as
there.

Written: one row for each pair that a record states, so up to three, with ids ``ID``, ``ID@rejected_media`` and
``ID@rejected_prompt``. All have ``rejected_messages`` and all media: in a file where another row has it, a row without
``rejected_response`` is thrown away by ms-swift. ``TARGET_sft.jsonl`` has the records with nothing rejected and
``TARGET_kto.jsonl`` those with nothing chosen: beside pairs in one file, ms-swift would take them for pairs of equals.
The margin is the difference of the scores ``reward``. Paths are the records' own: set ``ROOT_IMAGE_DIR`` to the folder
that they start from. A path cannot say that a part of a clip is meant (``a.mp4#t=12,20``, ``a.mp4#order=1,0:2``): such
records are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from mmalign.interop import _tables, _tagged
from mmalign.interop._media import Media
from mmalign.interop._turns import mapping
from mmalign.interop.formats import Unfit
from mmalign.records import Message, Messages, Record

_CALLS = ("tools", "objects", "audios")
_MEDIA = ("images", "image", "videos", "video")
READS = frozenset(
    {
        *("id", "messages", "conversations", "query", "response", "history", "system"),
        *("rejected_response", "rejected_messages", "margin", "label"),
        *(f"{side}{name}" for side in ("", "rejected_") for name in (*_MEDIA, *_CALLS)),
    }
)
CARRIES = frozenset(
    {
        *("id", "chosen", "rejected", "images", "videos"),
        *("rejected_images", "rejected_videos", "rejected_prompt", "chosen_scores", "rejected_scores"),
    }
)

Turns = list[tuple[str, str]]

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_RESERVED = ("<audio>", "<img>", "<start-image>")


# ---- reading ---------------------------------------------------------------------------------------------------------


def record(row: Any, media: Media) -> dict[str, Any]:
    """What a row says; its id is a column ``id``, if there is one."""
    row = {name: value for name, value in mapping(row).items() if value is not None}
    for name in _CALLS:
        if row.get(name) or row.get(f"rejected_{name}"):
            raise Unfit(name, "a record has no such field", field=name)
    asked, answer = _cut(_conversation(row))
    own = {kind: _media(row, kind, media) for kind in ("images", "videos")}
    said = {"id": row.get("id"), "prompt": _prompt(asked, own), **own}
    texts = ("rejected_response", "rejected_messages")
    if not any(name in row for name in texts) and not any(row.get(f"rejected_{name}") for name in _MEDIA):
        return {**said, _labelled(row): _tagged.response(answer)}
    return {
        **said,
        "chosen": _tagged.response(answer),
        **_rejected(row, asked, answer, own, media),
        **_scores(row.get("margin")),
    }


def _labelled(row: Mapping[str, Any]) -> str:
    """Which side the answer of a row without a pair is."""
    if row.get("label", True) not in (True, False):
        raise Unfit("label", "expected true or false: a class is no preference", field="label")
    return "chosen" if row.get("label", True) else "rejected"


def _conversation(row: Mapping[str, Any]) -> Turns:
    """The turns of a row, in either layout."""
    if "query" in row:
        turns = [turn for both in _tagged.history(row.get("history")) for turn in both]
        turns += [("user", row["query"])] + ([("assistant", row["response"])] if "response" in row else [])
        turns = _checked(turns)
    else:
        found = next((row[name] for name in ("messages", "conversations") if name in row), None)
        turns = _turns(found, "messages")
    return [*_checked([("system", row["system"])]), *turns] if row.get("system") and turns[0][0] != "system" else turns


def _turns(messages: Any, field: str) -> Turns:
    if not isinstance(messages, list) or not messages:
        raise Unfit("turns", "expected a list of messages", field=field)
    if any(mapping(turn).get("tool_calls") for turn in messages):
        raise Unfit("tools", "a message calls tools", field=field)
    return _checked([(turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in messages])


def _checked(turns: Iterable[tuple[Any, Any]]) -> Turns:
    """Turns whose speakers are known and whose contents are texts."""
    known = [(_ROLES.get(str(speaker)), text) for speaker, text in turns]
    if any(role is None or not isinstance(text, str) for role, text in known):
        raise Unfit("turns", "expected messages of system, user and assistant with a text as content")
    return known


def _cut(turns: Turns) -> tuple[Turns, str]:
    """The prompt, and the one answer that follows its last turn, the user's."""
    asked, last = turns[:-1], turns[-1]
    if not asked or (asked[-1][0], last[0]) != ("user", "assistant"):
        raise Unfit("turns", "expected one answer of the assistant after a turn of the user")
    return asked, last[1]


def _media(row: Mapping[str, Any], name: str, media: Media) -> list[str]:
    """The names of the media in a column, which may also be called in the singular."""
    found = row.get(name, row.get(name.removesuffix("s"), []))
    take = media.picture if name.endswith("images") else media.video
    return [take(item) for item in (found if isinstance(found, list) else [found])]


def _prompt(turns: Turns, media: Mapping[str, list[str]]) -> Messages:
    """The prompt's messages. Media without a tag stand in front of the first turn after the system's."""
    said = "".join(text for _, text in turns)
    untagged = {kind: len(names) - said.count(f"<{kind[:-1]}>") for kind, names in media.items()}
    front = "".join(f"<{kind[:-1]}>" * untagged[kind] for kind in ("videos", "images"))
    first = int(turns[0][0] == "system")
    return [_tagged.message(role, front * (i == first) + text) for i, (role, text) in enumerate(turns)]


def _rejected(
    row: Mapping[str, Any], asked: Turns, answer: str, own: Mapping[str, list[str]], media: Media
) -> dict[str, Any]:
    """The one thing in which the rejected side of a row differs, by its field of a record."""
    other = {kind: _media(row, f"rejected_{kind}", media) for kind in own}
    if "rejected_messages" in row:
        for kind in own:
            if own[kind] and not {f"rejected_{kind}", f"rejected_{kind[:-1]}"} & row.keys():
                problem = "is not given beside rejected_messages: name their media, though they be the chosen side's"
                raise Unfit("no_rejected_media", problem, field=f"rejected_{kind}")
        other_asked, other_answer = _cut(_turns(row["rejected_messages"], "rejected_messages"))
    else:  # what is not given is as on the chosen side
        other = {kind: names or own[kind] for kind, names in other.items()}
        said = row.get("rejected_response", answer)
        turns = _turns(said, "rejected_response") if isinstance(said, list) else _checked([("assistant", said)])
        if [role for role, _ in turns] != ["assistant"]:
            raise Unfit("turns", "expected one answer of the assistant", field="rejected_response")
        other_asked, other_answer = asked, turns[0][1]
    found: dict[str, dict[str, Any]] = {}
    if other_answer != answer:
        found["answer"] = {"rejected": _tagged.response(other_answer)}
    if other != own:
        found["media"] = {f"rejected_{kind}": names for kind, names in other.items() if names != own[kind]}
    if other_asked != asked:
        found["prompt"] = {"rejected_prompt": _prompt(other_asked, other)}
    if len(found) != 1:
        which = " and ".join(found) or "nothing"
        raise Unfit(
            "two_differences" if found else "equal", f"the sides differ in {which}: a record compares one thing"
        )
    return next(iter(found.values()))


def _scores(margin: Any) -> dict[str, Any]:
    """A margin as a reward against 0."""
    return {} if margin is None else {"chosen_scores": {"reward": margin}, "rejected_scores": {"reward": 0.0}}


# ---- writing ---------------------------------------------------------------------------------------------------------


def lost(record: Record) -> list[str]:
    """Scores that are in no margin."""
    scores = {"chosen_scores": record.chosen_scores, "rejected_scores": record.rejected_scores}
    paired = all("reward" in score for score in scores.values())
    return [f"{side}.{name}" for side, score in scores.items() for name in score if name != "reward" or not paired]


def row(record: Record, media: Media) -> list[tuple[str, dict[str, Any]]]:
    """For each pair of a record, which file it goes into (``""``, ``"sft"`` or ``"kto"``) and its row."""
    own = {"images": list(record.images), "videos": list(record.videos)}
    negative = {kind: list(getattr(record, f"rejected_{kind}")) or own[kind] for kind in own}
    for path in chain(*own.values(), *negative.values()):
        media.whole(path)
    asked = _said(record.prompt)
    if record.chosen is None:
        if negative != own or record.rejected_prompt:
            raise Unfit("no_chosen", "other media or another prompt are rejected for a chosen answer, which is missing")
        return [("kto", {"id": record.id, "messages": asked + _said(record.rejected), **own, "label": False})]
    answer = _said(record.chosen)
    pairs: dict[str, tuple[list[Any], dict[str, list[str]]]] = {}
    if record.rejected:
        pairs[""] = asked + _said(record.rejected), own
    if negative != own:
        pairs["@rejected_media"] = asked + answer, negative
    if record.rejected_prompt:
        pairs["@rejected_prompt"] = _said(record.rejected_prompt) + answer, own
    said = {"messages": asked + answer, **own}
    if not pairs:
        return [("sft", {"id": record.id, **said})]
    margins = chain([_margin(record)], repeat({}))
    return [
        ("", {"id": record.id + name, **said, **_other(*other), **margin})
        for (name, other), margin in zip(pairs.items(), margins, strict=False)
    ]


def _other(messages: list[Any], media: Mapping[str, list[str]]) -> dict[str, Any]:
    return {"rejected_messages": messages, **{f"rejected_{kind}": names for kind, names in media.items()}}


def _said(messages: list[Message]) -> list[dict[str, str]]:
    if any(turn["role"] == "tool" for turn in messages):
        raise Unfit("tools", "a turn is a tool's")
    return [{"role": turn["role"], "content": _tagged.text(turn, _RESERVED)} for turn in messages]


def _margin(record: Record) -> dict[str, float]:
    """How much more reward the chosen side has; of the first pair of a record, which its scores are about."""
    rewards = record.chosen_scores.get("reward"), record.rejected_scores.get("reward")
    return {} if None in rewards else {"margin": rewards[0] - rewards[1]}


def save(rows: Iterable[list[tuple[str, Any]]], target: Path) -> None:
    """The files of JSON lines."""
    _tables.save_parts(chain.from_iterable(rows), target)
