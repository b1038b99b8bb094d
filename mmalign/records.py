"""The words of the project: every record that crosses a border, its JSONL, its validation.

A record file holds one JSON object a line, for example::

    {"id": "a#0", "prompt": [{"role": "user", "content": "What is here?"}], "images": ["a.png"],
     "chosen": [{"role": "assistant", "content": "A red cube."}],
     "rejected": [{"role": "assistant", "content": "A red cube and a dog."}]}

Inside the program a message always has block content, ``{"role": "user", "content": [{"type": "image"},
{"type": "text", "text": "..."}]}``; a file may also hold a plain string. ``null`` stands for an absent field,
as in files that were exported from a table.
"""

from __future__ import annotations

import json
import os
import re
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from mmalign import checks
from mmalign.checks import Check, InputError, MediaError, Spans

Message = dict[str, Any]
Messages = list[Message]

ROLES = ("system", "user", "assistant", "tool")
BLOCKS = ("text", "image", "video")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
_BOM = b"\xef\xbb\xbf"

NO_FILE = "no such file"
"""How what `validate` says of a missing medium begins."""


# ---------------------------------------------------------------------------------------------------------
# Messages
# ---------------------------------------------------------------------------------------------------------


def text_of(messages: Messages) -> str:
    """The text blocks of ``messages``, joined without a separator; messages are joined by a newline.

    Character spans count in ``text_of(record.chosen)``.
    """
    return "\n".join(
        "".join(block["text"] for block in message["content"] if block["type"] == "text") for message in messages
    )


def user_message(text: str, images: int = 0, videos: int = 0) -> Message:
    """A user turn with its media first: images, then videos, then the text."""
    media = [{"type": "image"} for _ in range(images)] + [{"type": "video"} for _ in range(videos)]
    return {"role": "user", "content": [*media, {"type": "text", "text": text}]}


def assistant_message(text: str) -> Message:
    """An assistant turn of one text block."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _count(messages: Messages, kind: str) -> int:
    return sum(block["type"] == kind for message in messages for block in message["content"])


def _place_media(messages: Messages, images: int, videos: int) -> Messages:
    """Turns string contents into blocks; media with no placeholder go first in the first string of a user."""
    written = [message for message in messages if isinstance(message["content"], list)]
    unplaced = not _count(written, "image") and not _count(written, "video")
    placed = []
    for message in messages:
        if isinstance(message["content"], str):
            here = unplaced and message["role"] == "user"
            content = user_message(message["content"], *((images, videos) if here else ()))["content"]
            message = {**message, "content": content}
            unplaced = unplaced and not here
        placed.append(message)
    return placed


def _check_placeholders(messages: Messages, field: str, media: Mapping[str, Sequence[str]]) -> None:
    """``media`` maps the names of media fields (images, rejected_videos, ...) to their paths."""
    for name, paths in media.items():
        kind = "image" if name.endswith("images") else "video"
        found = _count(messages, kind)
        if found != len(paths):
            raise InputError(
                f"{len(paths)} path(s), but {field} has {found} {kind} placeholder(s): give one "
                f'{{"type": "{kind}"}} block for each path',
                field=name,
            )


# ---------------------------------------------------------------------------------------------------------
# Checks of messages
# ---------------------------------------------------------------------------------------------------------


def _block(value: object) -> dict[str, str]:
    checks.expect(value, Mapping, "a content block")
    block = {key: item for key, item in value.items() if item is not None}
    kind = block.get("type")
    if kind not in BLOCKS:
        raise InputError(f"expected one of {', '.join(BLOCKS)}, got {kind!r}", field="type")
    extra = sorted(set(block) - {"type", *(["text"] if kind == "text" else [])})
    if extra:
        raise InputError(
            f"a block of type {kind} has no such key; paths belong in the record's {kind}s"
            if kind != "text"
            else "a block of type text has no such key",
            field=extra[0],
        )
    if kind == "text":
        with checks.within("text"):
            checks.string(block.get("text"))
    return block


def _message(value: object) -> Message:
    """A message whose content is blocks, or a string that is still to be turned into blocks."""
    checks.expect(value, Mapping, 'a message, {"role": ..., "content": ...}')
    message = {key: item for key, item in value.items() if item is not None}
    checks.refuse_unknown(message, _MESSAGE_KEYS)
    if message.get("role") not in ROLES:
        raise InputError(f"expected one of {', '.join(ROLES)}, got {message.get('role')!r}", field="role")
    content = message.get("content")
    with checks.within("content"):
        checks.expect(content, (str, list, tuple), "a string or a list of content blocks")
        if isinstance(content, str):
            return {**message, "content": checks.string(content)}
        blocks = []
        for i, block in enumerate(content):
            with checks.within(f"[{i}]"):
                blocks.append(_block(block))
    return {**message, "content": blocks}


def _prompt(value: object) -> Messages:
    """Turns that end in the user's; a plain string is one user turn."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    checks.expect(value, (list, tuple), "a list of messages")
    messages = []
    for i, message in enumerate(value):
        with checks.within(f"[{i}]"):
            messages.append(_message(message))
    if not messages or messages[-1]["role"] != "user":
        raise InputError("must end in a user turn: the response that follows it goes into chosen or rejected")
    return messages


def _answer(value: object) -> Message:
    """One assistant message with text and nothing but text."""
    message = _message(value)
    if message["role"] != "assistant":
        raise InputError(f"expected an assistant message, got one of {message['role']}", field="role")
    [message] = _place_media([message], 0, 0)
    if any(block["type"] != "text" for block in message["content"]):
        raise InputError("a response may only hold text: media belong to the prompt", field="content")
    if not text_of([message]).strip():
        raise InputError("is empty: give the response a text, or leave the field out", field="content")
    return message


def _answers(value: object) -> Messages:
    checks.expect(value, (list, tuple), "a list of one assistant message")
    if len(value) != 1:
        raise InputError(f"expected a list of one assistant message, got {len(value)}")
    with checks.within("[0]"):
        return [_answer(value[0])]


def _responses(value: object) -> tuple[Response, ...]:
    checks.expect(value, (list, tuple), "a list of responses")
    if len(value) < 2:
        raise InputError(f"expected two or more, got {len(value)}: a single one goes into chosen or rejected")
    responses = []
    for i, item in enumerate(value):
        with checks.within(f"[{i}]"):
            responses.append(Response.parse(item))
    return tuple(responses)


def _to_json(value: Any) -> Any:
    """A dataclass as a dict without the fields that are at their default; tuples as lists."""
    if isinstance(value, (Record, Question, Prediction, Response)):
        defaults = {f.name: f.default if f.default_factory is MISSING else {} for f in fields(value)}
        items = {name: getattr(value, name) for name in defaults}
        return {name: _to_json(item) for name, item in items.items() if item != defaults[name]}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


# ---------------------------------------------------------------------------------------------------------
# The records
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """One of a record's ``responses``. ``rank``: smaller is better. ``spans`` count in the message's text."""

    message: Message
    scores: dict[str, float] = field(default_factory=dict)
    rank: int | None = None
    spans: Spans | None = None
    critique: str | None = None

    @classmethod
    def parse(cls, obj: object) -> Response:
        """Raises InputError naming the field."""
        response = cls(**checks.values(obj, _RESPONSE_CHECKS, required=("message",)))
        _check_inside(response.spans, [response.message], "spans")
        return response

    def to_json(self) -> dict[str, Any]:
        """The JSON object; fields at their default are left out."""
        return _to_json(self)


@dataclass(frozen=True)
class Record:
    """One preference record: a prompt with media, and responses that are better or worse.

    Absent: None for messages, spans, texts and numbers; () for media; {} for scores and meta.
    """

    id: str
    prompt: Messages
    chosen: Messages | None = None
    rejected: Messages | None = None
    responses: tuple[Response, ...] | None = None
    gold: Messages | None = None
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    rejected_images: tuple[str, ...] = ()
    rejected_videos: tuple[str, ...] = ()
    rejected_prompt: Messages | None = None
    chosen_spans: Spans | None = None
    rejected_spans: Spans | None = None
    chosen_scores: dict[str, float] = field(default_factory=dict)
    rejected_scores: dict[str, float] = field(default_factory=dict)
    chosen_critique: str | None = None
    rejected_critique: str | None = None
    difficulty: float | None = None
    group: str | None = None
    weight: float | None = None
    strength: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def negative_media(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Images and videos of the visual negative. Of a kind that has none, the record's own stay."""
        return self.rejected_images or self.images, self.rejected_videos or self.videos

    @classmethod
    def parse(cls, obj: object, *, file: str | Path | None = None, line: int | None = None) -> Record:
        """Checks ``obj`` and brings it into block form. Raises InputError with file, line and field."""
        with checks.located(file, line):
            values = checks.values(obj, _RECORD_CHECKS, required=("id", "prompt"))
            media = len(values.get("images", ())), len(values.get("videos", ()))
            for name in ("prompt", "rejected_prompt"):
                if name in values:
                    values[name] = _place_media(values[name], *media)
            record = cls(**values)
            _check_record(record)
        return record

    def to_json(self) -> dict[str, Any]:
        """The JSON object; absent fields are left out, and ``Record.parse(record.to_json()) == record``."""
        return _to_json(self)


@dataclass(frozen=True)
class Question:
    """One item of a benchmark; ``gold`` is its reference answer where it has one."""

    id: str
    prompt: Messages
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    gold: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: object, *, file: str | Path | None = None, line: int | None = None) -> Question:
        """Raises InputError with file, line and field."""
        with checks.located(file, line):
            values = checks.values(obj, _QUESTION_CHECKS, required=("id", "prompt"))
            media = {name: values.get(name, ()) for name in ("images", "videos")}
            values["prompt"] = _place_media(values["prompt"], *map(len, media.values()))
            _check_placeholders(values["prompt"], "prompt", media)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The JSON object; absent fields are left out."""
        return _to_json(self)


@dataclass(frozen=True)
class Prediction:
    """A model's answer to the question of the same id; the text may be empty."""

    id: str
    text: str
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: object, *, file: str | Path | None = None, line: int | None = None) -> Prediction:
        """Raises InputError with file, line and field."""
        with checks.located(file, line):
            return cls(**checks.values(obj, _PREDICTION_CHECKS, required=("id", "text")))

    def to_json(self) -> dict[str, Any]:
        """The JSON object; absent fields are left out."""
        return _to_json(self)


_ANSWER_CHECKS = {"scores": checks.scores, "spans": checks.spans, "critique": checks.string}


def _picture_names(value: object) -> tuple[str, ...]:
    names = checks.media_names(value)
    for i, name in enumerate(names):
        if part := PART_OF_CLIP.search(name):
            raise InputError(f"a picture has no {part[0]}, which is a part of a clip: {name}", field=f"[{i}]")
    return names


_MEDIA_CHECKS = {"images": _picture_names, "videos": checks.media_names}
_RESPONSE_CHECKS: dict[str, Check] = {"message": _answer, "rank": checks.rank, **_ANSWER_CHECKS}
_RECORD_CHECKS: dict[str, Check] = {
    "id": checks.nonempty,
    "prompt": _prompt,
    "chosen": _answers,
    "rejected": _answers,
    "gold": _answers,
    "responses": _responses,
    "rejected_prompt": _prompt,
    **_MEDIA_CHECKS,
    **{f"rejected_{name}": check for name, check in _MEDIA_CHECKS.items()},
    **{f"{side}_{name}": check for side in ("chosen", "rejected") for name, check in _ANSWER_CHECKS.items()},
    "difficulty": checks.finite,
    "group": checks.nonempty,
    "weight": checks.nonnegative,
    "strength": checks.probability,
    "meta": checks.json_object,
}
_QUESTION_CHECKS: dict[str, Check] = {
    "id": checks.nonempty,
    "prompt": _prompt,
    **_MEDIA_CHECKS,
    "gold": checks.string,
    "meta": checks.json_object,
}
_PREDICTION_CHECKS: dict[str, Check] = {
    "id": checks.nonempty,
    "text": checks.string,
    "meta": checks.json_object,
}


def _check_record(record: Record) -> None:
    """What concerns several fields at once."""
    if record.chosen is None and record.rejected is None and record.responses is None:
        raise InputError("at least one of chosen, rejected, responses must be given", field="chosen")
    own = {"images": record.images, "videos": record.videos}
    negative = {"rejected_images": record.rejected_images, "rejected_videos": record.rejected_videos}
    given = {name: paths for name, paths in negative.items() if paths}
    _check_placeholders(record.prompt, "prompt", own | given)
    if record.rejected_prompt is not None:
        _check_placeholders(record.rejected_prompt, "rejected_prompt", own)
    _check_sides(record)
    _check_inside(record.chosen_spans, record.chosen, "chosen_spans")
    _check_inside(record.rejected_spans, record.rejected, "rejected_spans")


def _check_sides(record: Record) -> None:
    """What is said of a side needs that side, and the two sides must differ in something."""
    other = (
        record.rejected_images not in ((), record.images)
        or record.rejected_videos not in ((), record.videos)
        or record.rejected_prompt not in (None, record.prompt)
    )
    present = {"chosen": record.chosen is not None, "rejected": record.rejected is not None or other}
    for side in present:
        for name in (f"{side}_scores", f"{side}_critique"):
            if getattr(record, name) and not present[side]:
                raise InputError(f"is given, but the record has no {side}", field=name)
    if record.chosen and record.rejected and not other and text_of(record.chosen) == text_of(record.rejected):
        raise InputError(
            "is equal to chosen, and neither media nor prompt of the rejected side differ: there is nothing to prefer",
            field="rejected",
        )


def _check_inside(spans: Spans | None, messages: Messages | None, field: str) -> None:
    if spans is None:
        return
    if messages is None:
        raise InputError("is given, but the text that it counts in is not", field=field)
    length = len(text_of(messages))
    if spans and spans[-1][1] > length:
        raise InputError(f"{list(spans[-1])} ends after the text, which has {length} characters", field=field)


# ---------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------


PART_OF_CLIP = re.compile(
    r"#(?=.)(?:t=(?P<start>[0-9.]*)(?:,(?P<end>[0-9.]+))?)?"
    r"(?:(?:(?<=#)|(?<!#)&)order=(?P<order>[0-9,]+):(?P<parts>[0-9]+))?$"
)
"""The end of a clip's name that says which part of the file is meant, and in which order; see `mmalign.media.Part`."""


def media_path(name: str, root: str | Path) -> Path:
    """The real path of a record's media file; MediaError (bad_path) if it is absolute or leaves ``root``.

    Symbolic links are resolved first, so a link cannot lead out either. The file need not exist. What a name says of a
    part of a clip (`PART_OF_CLIP`) is not in the path.
    """
    checks.refuse_outside_name(name)
    try:
        base = Path(root).resolve()
        path = (base / PART_OF_CLIP.sub("", name)).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links is RuntimeError until Python 3.13
        raise MediaError(f"cannot be followed ({error}): {name}", reason="bad_path") from None
    if path == base or not path.is_relative_to(base):
        raise MediaError(f"leaves the media root {base} (--media_root): {name}", reason="bad_path")
    return path


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise InputError("is given twice in one object: keep one", field=twice)
    return obj


def _decode(line: bytes) -> Any:
    """One line of JSON. NaN passes here, so that the check of its field can name it."""
    try:
        return json.loads(line.decode().rstrip(), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start + 1} of the line: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"malformed JSON at column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise InputError("malformed JSON: nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise InputError(f"malformed JSON: {error}") from None


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, byte offset, line) of every line that is not blank, less a byte order mark."""
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            start = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            if line[start:].strip():
                yield number, offset + start, line[start:]
            offset += len(line)


def read_jsonl(path: str | Path, parse: Callable[..., Any]) -> Iterator[Any]:
    """The rows of a file: ``read_jsonl(path, Question.parse)``. Raises InputError at the first bad line."""
    path = Path(path)
    for number, _, line in _lines(path):
        with checks.located(path, number):
            obj = _decode(line)
        yield parse(obj, file=path, line=number)


def json_line(row: Any) -> bytes:
    """A dict, or an object with ``to_json()``, as one line of UTF-8 JSON with its newline."""
    obj = row.to_json() if hasattr(row, "to_json") else row
    return json.dumps(obj, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def sync_folder(folder: Path) -> None:
    """Brings a folder's list of names to the disk, so that a new or renamed file outlives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_write(path: Path, temporary: Path | None = None) -> Iterator[Any]:
    """A binary file that appears under ``path`` whole, when the block ends, or not at all.

    ``temporary``: where it grows, in the same file system. A caller that holds a lock names one, so that
    what a kill leaves behind is overwritten the next time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Writes rows (dicts, or objects with ``to_json()``) whole or not at all; an old file is replaced."""
    with atomic_write(Path(path)) as file:
        for row in rows:
            file.write(json_line(row))


class RowFile(Sequence[Any]):
    """The rows of a JSONL file by index, read when asked for; only 8 bytes a row are held in memory.

    Safe to send to other processes and to use after a fork: rows are read by position, and no file handle is pickled.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offsets = array("Q")
        self._blanks = array("Q")  # for every blank line, how many rows stand before it
        expected = 1
        for number, offset, _ in _lines(self.path):
            self._blanks.extend([len(self._offsets)] * (number - expected))
            self._offsets.append(offset)
            expected = number + 1
        self._offsets.append(self.path.stat().st_size)
        self._file: Any = None

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Any:
        line = self.line_of(index)
        index = range(len(self))[index]
        start, stop = self._offsets[index], self._offsets[index + 1]
        if self._file is None:
            self._file = _open(self.path)
        with checks.located(self.path, line):
            # pread leaves the position alone, which forked processes share. Blank lines may follow the row.
            return _decode(os.pread(self._file.fileno(), stop - start, start))

    def line_of(self, index: int) -> int:
        """The line, counted from 1, on which a row stands."""
        index = range(len(self))[index]
        return index + 1 + bisect_right(self._blanks, index)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._file.close()


class RecordFile(RowFile):
    """The records of a file by index; media names are relative to ``media_root``, the file's own folder by default."""

    def __init__(self, path: str | Path, media_root: str | Path | None = None) -> None:
        super().__init__(path)
        self.media_root = self.path.parent if media_root is None else Path(media_root)

    def __getitem__(self, index: int) -> Record:
        return Record.parse(super().__getitem__(index), file=self.path, line=self.line_of(index))

    def media(self, record: Record, field: str = "images") -> tuple[Path, ...]:
        """The real paths of a record's ``images``, ``videos``, ``rejected_images`` or ``rejected_videos``."""
        with checks.located(self.path, None), checks.within(field):
            return tuple(media_path(name, self.media_root) for name in getattr(record, field))


def validate(
    path: str | Path,
    media_root: str | Path | None = None,
    open_media: Callable[[Path], object] | None = None,
    each: Callable[[Record, int], object] | None = None,
    open_clip: Callable[[str, Path], object] | None = None,
) -> Iterator[InputError]:
    """Every problem of a record file, in the order of its lines; nothing is raised.

    ``open_media`` (``mmalign.media.open_image``) is called once on each distinct image file and reports by
    raising InputError; so is ``open_clip`` (``mmalign.media.open_clip``) on each clip's name and the folder that it
    starts from. Without the second, clips need only exist; without the first, no media file is touched.
    ``each`` is given every record that can be parsed and its line, after its media were opened.
    """
    path = Path(path)
    root = path.parent if media_root is None else Path(media_root)
    first_line: dict[str, int] = {}
    media = _MediaCheck(root, open_media, open_clip) if open_media else None
    empty = True
    try:
        for number, _, line in _lines(path):
            empty = False
            for problem in _problems(line, number, first_line, media, each):
                problem.file, problem.line = path, number
                yield problem
    except InputError as error:  # the file itself cannot be read
        yield error
        return
    if empty:
        yield InputError("holds no record", file=path)


def _problems(
    line: bytes,
    number: int,
    first_line: dict[str, int],
    media: _MediaCheck | None,
    each: Callable[[Record, int], object] | None,
) -> Iterator[InputError]:
    try:
        obj = _decode(line)
        identity = obj.get("id") if isinstance(obj, dict) else None
        if isinstance(identity, str) and first_line.setdefault(identity, number) != number:
            yield InputError(f"{identity!r} is that of line {first_line[identity]} too: make ids unique", field="id")
        record = Record.parse(obj)
    except InputError as error:
        yield error
        return
    if media:
        yield from media(record)
    if each:
        each(record, number)


class _MediaCheck:
    """Looks at the media of one record after another; what was found out about a file is kept."""

    def __init__(
        self,
        root: Path,
        open_image: Callable[[Path], object],
        open_clip: Callable[[str, Path], object] | None,
    ) -> None:
        self.root, self.open_image, self.open_clip = root, open_image, open_clip
        self.known: dict[Path | str, str] = {}  # a picture's path, or a clip's name with its part -> problem, or empty

    def __call__(self, record: Record) -> Iterator[InputError]:
        for name in ("images", "videos", "rejected_images", "rejected_videos"):
            for media in getattr(record, name):
                try:
                    problem = self._problem(media_path(media, self.root), media, name.endswith("videos"))
                except InputError as error:
                    problem = error.problem
                if problem:
                    yield InputError(problem, field=name)

    def _problem(self, path: Path, media: str, clip: bool) -> str:
        key = media if clip else path
        if key not in self.known:
            try:
                self.known[key] = "" if path.exists() else f"{NO_FILE}: {media}"
                if not clip and path.is_dir():
                    self.known[key] = f"is a folder: {media}"
                elif not self.known[key] and clip and self.open_clip:
                    self.open_clip(media, self.root)
                elif not self.known[key] and not clip:
                    self.open_image(path)
            except InputError as error:
                self.known[key] = error.problem
            except OSError as error:  # a name that is too long
                self.known[key] = f"cannot be read: {error.strerror}"
        return self.known[key]
