"""Turns of a conversation as other projects write them: who speaks, and where the media stand in a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmalign.interop.formats import Unfit
from mmalign.records import Message

IMAGE, VIDEO = "<image>", "<video>"
"""How a text says where its media stand."""

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def turn(value: Any) -> tuple[str, str]:
    """(role, text) of ``{"from": "human", "value": ...}`` or ``{"role": "user", "content": ...}``."""
    if isinstance(value, Mapping):
        speaker = _SPEAKERS.get(str(value.get("from", value.get("role"))))
        text = value.get("value", value.get("content"))
        if speaker and isinstance(text, str):
            return speaker, text
    raise Unfit("turns", 'expected turns such as {"from": "human", "value": "..."}')


def turns(values: Any) -> list[tuple[str, str]]:
    """(role, text) of each turn of a list."""
    if not isinstance(values, list) or not values:
        raise Unfit("turns", "expected a list of turns")
    return [turn(value) for value in values]


def message(role: str, text: str) -> Message:
    """A turn as a message; ``<image>`` and ``<video>`` of the user become blocks.

    The line breaks between media at either end of a text and its words go: they are layout. A text that says nothing of
    media stays a string, and a record puts its media in front.
    """
    parts = re.split(f"({IMAGE}|{VIDEO})", text) if role == "user" else [text]
    if len(parts) == 1:
        return {"role": role, "content": text}
    words = [i for i, part in enumerate(parts) if part.strip() and part not in (IMAGE, VIDEO)]
    blocks: list[dict[str, str]] = []
    for i, part in enumerate(parts):
        if part in (IMAGE, VIDEO):
            blocks.append({"type": part.strip("<>")})
        elif i in words:
            part = part.lstrip("\n") if i == words[0] and i else part
            part = part.rstrip("\n") if i == words[-1] and i < len(parts) - 1 else part
            blocks.append({"type": "text", "text": part})
    return {"role": role, "content": blocks}


def answer(text: Any) -> list[Message]:
    """A side of a pair. An answer that is missing, or blank, is refused."""
    if not isinstance(text, str) or not text.strip():
        raise Unfit("no_answer", "a response is missing or empty")
    return [{"role": "assistant", "content": text}]


def pair(prompt: list[Message], chosen: Any, rejected: Any) -> dict[str, Any]:
    """What a record says of a pair of texts. Equal ones are refused."""
    sides = {"prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)}
    if chosen == rejected:
        raise Unfit("equal", "chosen and rejected are the same: there is nothing to prefer")
    return sides


def question(text: Any) -> str:
    """The text of a prompt, which must be there."""
    if not isinstance(text, str) or not text.strip():
        raise Unfit("no_prompt", "the prompt is missing or empty")
    return text


def mapping(row: Any) -> Mapping[str, Any]:
    """A row that is an object."""
    if not isinstance(row, Mapping):
        raise Unfit("invalid", f"expected an object, got a {type(row).__name__}")
    return row
