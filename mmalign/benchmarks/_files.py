"""What every benchmark does with files: rows of JSON in, predictions in, and their join by id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmalign.records import InputError, Prediction, Question

_SHOWN = 3


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON-lines file, or of a file that is one JSON array, whatever its name ends in.

    Yields:
        Number and object: the line's number, or in an array the object's (from 1).

    Raises:
        InputError: no such file, no JSON, or not objects.
    """
    text = read_utf8(path)
    if text.lstrip().startswith("["):
        rows = enumerate(_loads(text, path), start=1)
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = ((number, _loads(line, path, number)) for number, line in lines if line.strip())
    for number, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"expected an object, found {type(row).__name__}", file=path, line=number)
        yield number, row


def read_map(path: Path) -> dict[str, list[str]]:
    """A JSON object ``{image: [object names]}``, checked.

    Raises:
        InputError: no such file, no JSON, or a value that is not a list of names.
    """
    content = _loads(read_utf8(path), path)
    if not isinstance(content, dict):
        raise InputError("expected one JSON object {image: [object names]}", file=path)
    for image, objects in content.items():
        if not isinstance(objects, list) or not all(isinstance(o, str) and o.strip() for o in objects):
            raise InputError("expected a list of object names", file=path, field=image)
    return content


def read_text_predictions(path: Path, id_key: str, text_key: str) -> list[Prediction]:
    """Predictions of rows that name their question by ``id_key`` and hold the answer in ``text_key``.

    Raises:
        InputError: a row without these fields, or whose answer is no string.
    """
    return [
        Prediction(id=str(field(row, id_key, path, number)), text=string_field(row, text_key, path, number))
        for number, row in read_rows(path)
    ]


def field(row: dict[str, Any], name: str, path: Path, number: int) -> Any:
    """``row[name]``, or an InputError with file, line and field."""
    if name not in row:
        raise InputError("missing", file=path, line=number, field=name)
    return row[name]


def string_field(row: dict[str, Any], name: str, path: Path, number: int) -> str:
    """``row[name]`` where it is a string, or an InputError with file, line and field."""
    value = field(row, name, path, number)
    if not isinstance(value, str):
        raise InputError(f"expected a string, found {type(value).__name__}", file=path, line=number, field=name)
    return value


def join(questions: Iterable[Question], predictions: Iterable[Prediction]) -> dict[str, str | None]:
    """The answer to each question, in the order of the questions; None where there is none.

    Raises:
        InputError: no questions, an id twice among either, or predictions for ids that are no question.
    """
    asked = Counter(question.id for question in questions)
    if not asked:
        raise InputError("no questions to score")
    predictions = list(predictions)
    answered = Counter(prediction.id for prediction in predictions)
    _refuse("two questions have one id", (name for name, count in asked.items() if count > 1))
    _refuse("two predictions have one id", (name for name, count in answered.items() if count > 1))
    _refuse("predictions for ids that are no question", (name for name in answered if name not in asked))
    return dict.fromkeys(asked) | {prediction.id: prediction.text for prediction in predictions}


def _refuse(problem: str, ids: Iterable[str]) -> None:
    ids = list(ids)
    if ids:
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        raise InputError(f"{problem}: {', '.join(ids[:_SHOWN])}{more}")


def read_utf8(path: Path) -> str:
    """The text of a file, without a byte order mark; InputError where it is none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}: save the file as UTF-8", file=path) from None


def _loads(text: str, path: Path, number: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", file=path, line=number or error.lineno) from None
