"""Checks of the values of a JSON object, and the error that says where in the user's input one fails.

A check takes a value and returns it in the program's own form, or raises InputError. ``within`` and
``located`` add the place as the error passes by: a check does not know the field that it is used for.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

Spans = tuple[tuple[int, int], ...]
Check = Callable[[Any], Any]


class InputError(ValueError):
    """Something in the user's input that the user can mend: where it is, what is wrong, what to do."""

    def __init__(
        self, problem: str, *, file: str | Path | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem, self.file, self.line, self.field = problem, file, line, field

    def __str__(self) -> str:
        """``pairs.jsonl:7: field 'images': no such file: a.png``, less the parts that are not known."""
        place = "" if self.file is None else str(self.file)
        if self.line is not None:
            place += f":{self.line}" if place else f"line {self.line}"
        parts = [place, f"field '{self.field}'" if self.field else "", self.problem]
        return ": ".join(part for part in parts if part)


Reason = Literal[
    "bad_path", "missing", "unreadable", "truncated", "too_large", "outside", "no_video", "out_of_range", "timeout",
    "crashed", "refused",
]  # fmt: skip


class MediaError(InputError):
    """A picture or clip that cannot be used. ``reason`` is the word under which a builder counts the drop."""

    def __init__(self, problem: str, *, reason: Reason = "unreadable", **place: Any) -> None:
        super().__init__(problem, **place)
        self.reason = reason


@contextmanager
def within(name: str) -> Iterator[None]:
    """Puts ``name`` before the field of an error raised inside: ``[1]`` becomes ``prompt[1]``."""
    try:
        yield
    except InputError as error:
        inner = error.field or ""
        error.field = name + (inner if not inner or inner.startswith("[") else f".{inner}")
        raise


@contextmanager
def located(file: str | Path | None, line: int | None) -> Iterator[None]:
    """Adds file and line to an error raised inside that does not know them."""
    try:
        yield
    except InputError as error:
        error.file = file if error.file is None else error.file
        error.line = line if error.line is None else error.line
        raise


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        tuple: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def expect(value: object, types: type | tuple[type, ...], wanted: str) -> None:
    """``wanted`` says ``types`` in words. A boolean is no number, though Python takes it for one."""
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        raise InputError(f"expected {wanted}, got {_kind(value)}")


def string(value: object) -> str:
    """Any text that can be written as UTF-8; JSON can spell some that cannot."""
    expect(value, str, "a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"character {error.start} is half of a surrogate pair: remove it") from None
    return value


def nonempty(value: object) -> str:
    """A string with something to read in it."""
    if not string(value).strip():
        raise InputError("is empty")
    return value


def finite(value: object) -> float:
    """A number other than the NaN and Infinity that Python's JSON lets through."""
    expect(value, (int, float), "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"must be a finite number, got {number}")
    return number


def nonnegative(value: object) -> float:
    """A finite number of 0 or more."""
    if finite(value) < 0:
        raise InputError(f"must be 0 or more, got {value}")
    return float(value)


def probability(value: object) -> float:
    """A number from 0 to 1."""
    if not 0 <= finite(value) <= 1:
        raise InputError(f"is a probability: it must be from 0 to 1, got {value}")
    return float(value)


def rank(value: object) -> int:
    """An integer of 0 or more."""
    expect(value, int, "an integer")
    if value < 0:
        raise InputError(f"must be 0 or more, got {value}")
    return value


def json_value(value: Any) -> Any:
    """Any JSON, as long as its strings are text and its numbers finite."""
    if isinstance(value, Mapping):
        return {string(key): _nested(f"{key}", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nested(f"[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, str):
        return string(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    return finite(value)


def _nested(name: str, value: Any) -> Any:
    with within(name):
        return json_value(value)


def json_object(value: object) -> dict[str, Any]:
    """An object of anything JSON, with the exceptions of ``json_value``."""
    expect(value, Mapping, "an object")
    return json_value(value)


def scores(value: object) -> dict[str, float]:
    """An object of finite numbers."""
    expect(value, Mapping, 'an object of numbers such as {"reward": 1.5}')
    numbers = {}
    for name, number in value.items():
        with within(str(name)):
            numbers[nonempty(name)] = finite(number)
    return numbers


def media_names(value: object) -> tuple[str, ...]:
    """A list of paths relative to the media root, which they do not leave."""
    expect(value, (list, tuple), "a list of paths")
    for i, name in enumerate(value):
        with within(f"[{i}]"):
            refuse_outside_name(nonempty(name))
    return tuple(value)


def refuse_outside_name(name: str) -> None:
    """Refuses by its spelling alone what can never be a path inside the media root: MediaError, reason bad_path."""
    problem = None
    if "://" in name:
        problem = f"is a URL, expected a relative path: download it and name the file: {name}"
    elif "\0" in name:
        problem = f"has a zero byte in it: {name!r}"
    elif PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        problem = f"is absolute, expected a path relative to the media root (--media_root): {name}"
    elif os.path.normpath(name).split(os.sep)[0] == "..":
        problem = f"leaves the media root (--media_root): {name}"
    if problem:
        raise MediaError(problem, reason="bad_path")


def spans(value: object) -> Spans:
    """Pairs of integers, not empty, sorted, and without overlap."""
    expect(value, (list, tuple), "a list of [start, end) pairs")
    end = 0
    for i, span in enumerate(value):
        with within(f"[{i}]"):
            if not isinstance(span, (list, tuple)) or len(span) != 2 or any(type(x) is not int for x in span):
                raise InputError("expected two integers, [start, end)")
            if not 0 <= span[0] < span[1]:
                raise InputError(f"start must be 0 or more and less than end, got {list(span)}")
            if span[0] < end:
                raise InputError(f"{list(span)} begins before the span ahead of it ends: sort and join them")
            end = span[1]
    return tuple((start, stop) for start, stop in value)


def refuse_unknown(obj: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuses the first key of ``obj`` that is not in ``known``, and says which of them is meant."""
    for name in obj:
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"known fields: {', '.join(known)}"
            raise InputError(f"unknown field; {hint}", field=str(name))


def values(obj: object, checks: Mapping[str, Check], required: Sequence[str]) -> dict[str, Any]:
    """The fields of ``obj`` that are present (``null`` is absent), each passed through its check."""
    expect(obj, Mapping, "a JSON object")
    refuse_unknown(obj, checks)
    values = {}
    for name, check in checks.items():
        if obj.get(name) is not None:
            with within(name):
                values[name] = check(obj[name])
        elif name in required:
            raise InputError("is missing", field=name)
    return values
