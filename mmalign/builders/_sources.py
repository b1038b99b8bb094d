"""What builders start from: records, prompts without an answer, bare questions about a picture or clip, bare clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign import checks
from mmalign.records import PART_OF_CLIP, InputError, Question, Record, RowFile, assistant_message, user_message

DESCRIBE = "Describe the video in detail."
"""What is asked about a clip that comes without a question."""


def _media_name(value: object) -> str:
    name = checks.nonempty(value)
    checks.refuse_outside_name(name)
    return name


_ROW: dict[str, checks.Check] = {
    "id": checks.nonempty,
    "image": _media_name,
    "video": _media_name,
    "question": checks.nonempty,
    "answer": checks.string,
}


class Sources(RowFile):
    """The sources in a JSONL file by index, read when asked for; see `sources`."""

    def __getitem__(self, index: int) -> Record:
        return _source(super().__getitem__(index), file=self.path, line=self.line_of(index))


def sources(path: str | Path) -> Sequence[Record]:
    """The sources in a JSONL file, each line one of these::

        {"id": "a", "prompt": "What is here?", "images": ["a.png"], "chosen": [...]}     a record
        {"id": "a", "prompt": "What is here?", "images": ["a.png"]}                      without an answer
        {"image": "a.png", "question": "What is here?", "answer": "A cat."}              answer and id may be missing
        {"video": "a.mp4", "question": "What happens?", "answer": "A cat."}              and the question of a clip

    A source without an answer has ``chosen`` None; a clip without a question is to be described (`DESCRIBE`). A row
    without an id is named after its medium and line. All lines are looked at once; the sources themselves are read when
    they are needed, so a million of them take no memory.

    Raises:
        InputError: at the first line that is none of them; or the file holds no line.
    """
    found = Sources(path)
    if not len(found):
        raise InputError("holds no record", file=path)
    for _ in found:
        pass
    return found


def _source(obj: Any, *, file: Path, line: int) -> Record:
    if isinstance(obj, Mapping) and obj.keys() & {"image", "video", "question"}:
        return _from_row(obj, file, line)
    if not isinstance(obj, Mapping) or any(obj.get(name) for name in ("chosen", "rejected", "responses")):
        return Record.parse(obj, file=file, line=line)
    asked = Question.parse(obj, file=file, line=line)
    return Record(asked.id, asked.prompt, images=asked.images, videos=asked.videos, meta=asked.meta)


def _from_row(obj: Mapping[str, Any], file: Path, line: int) -> Record:
    kind = "video" if obj.get("video") is not None else "image"
    with checks.located(file, line):
        row = checks.values(obj, _ROW, required=(kind, *(("question",) if kind == "image" else ())))
        if row.keys() >= {"image", "video"}:
            raise InputError("and video are both given: a row is about one of them", field="image")
    name = row[kind]
    return Record(
        id=row.get("id", f"{Path(PART_OF_CLIP.sub('', name)).stem}-{line}"),
        prompt=[user_message(row.get("question", DESCRIBE), **{f"{kind}s": 1})],
        chosen=[assistant_message(row["answer"])] if "answer" in row else None,
        **{f"{kind}s": (name,)},
    )
