"""Texts in which ``<image>`` and ``<video>`` stand for media, and messages with blocks; no character is lost.

`mmalign.interop._turns.message` reads the same tags as layout, and drops line breaks around them. Projects that train
on such a text as it is are read and written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mmalign.interop._turns import IMAGE, VIDEO, answer
from mmalign.interop.formats import Unfit
from mmalign.records import Message

AUDIO = "<audio>"


def message(role: str, text: Any) -> Message:
    """A turn, with a block for each tag in its text."""
    if not isinstance(text, str):
        raise Unfit("turns", f"expected a text of the {role}, got a {type(text).__name__}")
    parts = [part for part in re.split(f"({IMAGE}|{VIDEO})", text) if part]
    return {"role": role, "content": [_block(part) for part in parts]}


def _block(part: str) -> dict[str, str]:
    return {"type": part.strip("<>")} if part in (IMAGE, VIDEO) else {"type": "text", "text": part}


def history(turns: Any) -> list[tuple[tuple[str, Any], tuple[str, Any]]]:
    """(role, text) of each question and its answer, of pairs such as ``[["What?", "A cat."]]``; None is no history."""
    if turns is None:
        return []
    if not isinstance(turns, list) or not all(isinstance(both, list) and len(both) == 2 for both in turns):
        raise Unfit("turns", "expected pairs of a question and its answer", field="history")
    return [(("user", asked), ("assistant", said)) for asked, said in turns]


def response(text: Any) -> list[Message]:
    """A side of a pair, refused where it is blank or has a tag in it: a record's responses are text."""
    side = answer(text)
    if any(tag in text for tag in (IMAGE, VIDEO, AUDIO)):
        raise Unfit("tags", "a response has a tag of media in it")
    return side


def text(message: Message, reserved: Iterable[str] = (AUDIO,)) -> str:
    """A message as a text with tags.

    Args:
        message: with block content.
        reserved: tags, beside those of images and videos, that would not be read as text.

    Raises:
        Unfit: its words would be taken for a tag, or it calls tools.
    """
    if message.keys() - {"role", "content"}:
        raise Unfit("tools", f"a message has {', '.join(sorted(message.keys() - {'role', 'content'}))}")
    blocks = message["content"]
    said = "".join(block["text"] if block["type"] == "text" else f"<{block['type']}>" for block in blocks)
    for tag in (IMAGE, VIDEO, *reserved):
        if said.count(tag) != sum(f"<{block['type']}>" == tag for block in blocks):
            raise Unfit("tags", f"{tag} is part of a text, and would be taken for a tag")
    return said
