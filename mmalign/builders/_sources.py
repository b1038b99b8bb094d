"""What builders start from: records, prompts without an answer, or bare questions about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign import checks
from mmalign.records import InputError, Question, Record, assistant_message, read_jsonl, user_message


def _media_name(value: object) -> str:
    name = checks.nonempty(value)
    checks.refuse_outside_name(name)
    return name


_ROW: dict[str, checks.Check] = {
    "id": checks.nonempty,
    "image": _media_name,
    "question": checks.nonempty,
    "answer": checks.string,
}


def sources(path: str | Path) -> list[Record]:
    """The sources in a JSONL file, each line one of these::

        {"id": "a", "prompt": "What is here?", "images": ["a.png"], "chosen": [...]}     a record
        {"id": "a", "prompt": "What is here?", "images": ["a.png"]}                      without an answer
        {"image": "a.png", "question": "What is here?", "answer": "A cat."}              answer and id may be missing

    A source without an answer has ``chosen`` None. A row without an id is named after its picture and line.

    Raises:
        InputError: at the first line that is none of them; or the file holds no line.
    """
    found = list(read_jsonl(path, _source))
    if not found:
        raise InputError("holds no record", file=path)
    return found


def _source(obj: Any, *, file: Path, line: int) -> Record:
    if isinstance(obj, Mapping) and ("image" in obj or "question" in obj):
        return _from_row(obj, file, line)
    if not isinstance(obj, Mapping) or any(obj.get(name) for name in ("chosen", "rejected", "responses")):
        return Record.parse(obj, file=file, line=line)
    asked = Question.parse(obj, file=file, line=line)
    return Record(asked.id, asked.prompt, images=asked.images, videos=asked.videos, meta=asked.meta)


def _from_row(obj: Mapping[str, Any], file: Path, line: int) -> Record:
    with checks.located(file, line):
        row = checks.values(obj, _ROW, required=("image", "question"))
    return Record(
        id=row.get("id", f"{Path(row['image']).stem}-{line}"),
        prompt=[user_message(row["question"], images=1)],
        images=(row["image"],),
        chosen=[assistant_message(row["answer"])] if "answer" in row else None,
    )
