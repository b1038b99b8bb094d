"""The records of a file as a page that is looked through: `mmalign inspect`.

The page holds all that it shows, as JSON in blocks that no browser runs: first the pictures, 64 to a block, written as
the file is read; then one object a record. Its script makes text of texts and never markup, and the page's content
policy names the hash of that script, so nothing else in the page could run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mmalign import __version__
from mmalign.builders._similarity import words_of
from mmalign.media import FrameChoice, open_clip, open_image
from mmalign.media.hashes import content_hash
from mmalign.records import (
    InputError,
    MediaError,
    Messages,
    Record,
    RecordFile,
    RowFile,
    Spans,
    atomic_write,
    media_path,
    text_of,
)
from mmalign.reports.page import SMALL, templates
from mmalign.spans import differences

BLOCK = 64  # pictures; a browser decodes a block when it first shows one of them
FRAMES = 4  # of a clip
QUALITY = 72  # of WebP
MOST_BYTES = 400_000_000
"""A larger page is refused: browsers take minutes to open it, or give up."""

MOST_DROPS = 10_000
"""As many drops are listed; all are counted."""


@dataclass
class Thumbnails:
    """The pictures of a page, each distinct one once, however many names it has.

    Attributes:
        root: folder that media names start from.
        pixels: the longer side of a picture; a smaller one stays as it is. 0: no pictures.
        count: entries so far, each a picture or the reason why there is none.
        unopened: media that cannot be opened, by reason.
    """

    root: Path
    pixels: int = 160
    count: int = 0
    unopened: Counter[str] = field(default_factory=Counter)
    _waiting: list[Any] = field(default_factory=list)
    _by_name: dict[str, list[int]] = field(default_factory=dict)
    _by_content: dict[str, int] = field(default_factory=dict)

    def image(self, name: str) -> list[Any]:
        """``[name, numbers of its pictures]``: one, or none where pictures are not wanted."""
        return [name, self._numbers(name, lambda: [open_image(media_path(name, self.root))])]

    def video(self, name: str) -> list[Any]:
        """The same of a clip, with a picture for each of a few frames."""
        return [name, self._numbers(name, lambda: open_clip(name, self.root, FrameChoice(FRAMES)).frames)]

    def full_blocks(self) -> Iterator[list[Any]]:
        """Blocks that are complete; each is given once."""
        while len(self._waiting) >= BLOCK:
            yield self._waiting[:BLOCK]
            self._waiting = self._waiting[BLOCK:]

    def rest(self) -> list[Any]:
        """What is left when all records were read."""
        return self._waiting

    def _numbers(self, name: str, read: Any) -> list[int]:
        if not self.pixels:
            return []
        if name not in self._by_name:
            try:
                found = [self._number(image) for image in read()]
            except MediaError as error:  # without the path, which differs from machine to machine
                found = [self._unseen(error.reason, error.reason.replace("_", " "))]
            except InputError as error:
                found = [self._unseen("no_reader", error.problem)]
            self._by_name[name] = found
        return self._by_name[name]

    def _unseen(self, reason: str, said: str) -> int:
        self.unopened[reason] += 1
        return self._add(said)

    def _number(self, image: Image.Image) -> int:
        key = content_hash(image)
        if key not in self._by_content:
            self._by_content[key] = self._add(_encoded(image, self.pixels))
        return self._by_content[key]

    def _add(self, entry: Any) -> int:
        """``entry``: [width, height, base64 of a WebP file], or the reason why there is no picture."""
        self._waiting.append(entry)
        self.count += 1
        return self.count - 1


def _encoded(image: Image.Image, pixels: int) -> list[Any]:
    small = max(image.size) <= min(SMALL, pixels)
    if not small:
        image.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **({"lossless": True} if small else {"quality": QUALITY, "method": 4}))
    return [*image.size, base64.b64encode(buffer.getvalue()).decode("ascii")]


# ---- records as the page wants them ----------------------------------------------------------------------------------


@dataclass
class Rows:
    """Records as JSON objects. Containers in ``meta``, which are alike in most records, are kept once.

    Attributes:
        thumbnails: of their media.
        shared: containers in order of their first use; ``[3]`` in a row's meta stands for the fourth.
    """

    thumbnails: Thumbnails
    shared: list[Any] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def row(self, record: Record, line: int) -> dict[str, Any]:
        """One record; what it lacks is left out. Spans count in UTF-16 units, as the page's language does."""
        image, video = self.thumbnails.image, self.thumbnails.video
        row = {
            "line": line,
            "id": record.id,
            "prompt": turns(record.prompt),
            "images": [*map(image, record.images), *map(video, record.videos)],
            "negatives": [*map(image, record.rejected_images), *map(video, record.rejected_videos)],
            "rejectedPrompt": turns(record.rejected_prompt or []),
            **_sides(record),
            "gold": text_of(record.gold) if record.gold else None,
            "responses": _responses(record),
            "scores": _scores(record),
            **{name: getattr(record, name) for name in ("difficulty", "strength", "weight", "group")},
            "meta": {key: self._reference(value) for key, value in record.meta.items()},
        }
        return {key: value for key, value in row.items() if value not in (None, [], {})}

    def _reference(self, value: Any) -> Any:
        value = exact(value)
        if not isinstance(value, (dict, list)):
            return value
        key = json.dumps(value, ensure_ascii=False)
        if key not in self._numbers:
            self._numbers[key] = len(self.shared)
            self.shared.append(value)
        return [self._numbers[key]]


def exact(value: Any) -> Any:
    """JSON whose integers beyond 2**53 (seeds, say) are strings: the page's language has no others than floats."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return str(value) if isinstance(value, int) and abs(value) > 2**53 else value


def turns(messages: Messages) -> list[list[str]]:
    """``[role, text]`` of every turn. Media stand where they are, but for those that open the first turn of a user."""
    said = []
    for message in messages:
        blocks = message["content"]
        if message["role"] == "user" and not any(role == "user" for role, _ in said):
            while blocks and blocks[0]["type"] != "text":
                blocks = blocks[1:]
        text = "".join(b["text"] if b["type"] == "text" else f"[{b['type']}]" for b in blocks)
        said.append([message["role"], text])
    return said


def _sides(record: Record) -> dict[str, Any]:
    """Texts, words and marks of chosen and rejected: the record's own spans, or the words in which they differ."""
    texts = {side: text_of(getattr(record, side)) for side in ("chosen", "rejected") if getattr(record, side)}
    found: dict[str, Any] = {}
    own = {side: getattr(record, f"{side}_spans") for side in texts}
    differ = len(texts) == 2 and not any(spans is not None for spans in own.values())
    marks = dict(zip(texts, differences(*texts.values()), strict=True)) if differ else own
    for side, text in texts.items():
        found[side] = text
        found[f"{side}Words"] = len(words_of(text))
        found[f"{side}Marks"] = utf16(text, marks[side] or ())
        found[f"{side}Critique"] = getattr(record, f"{side}_critique")
    return found | {"ownSpans": True if any(own.values()) else None}


def utf16(text: str, spans: Spans) -> list[list[int]]:
    """Spans in characters as spans in UTF-16 units: a character beyond U+FFFF is two of them."""
    if text.isascii() or max(text) <= "\uffff":
        return [list(span) for span in spans]
    return [[place + sum(char > "\uffff" for char in text[:place]) for place in span] for span in spans]


def _responses(record: Record) -> list[dict[str, Any]]:
    rows = []
    for response in record.responses or ():
        text = text_of([response.message])
        row = {
            "text": text,
            "marks": utf16(text, response.spans or ()),
            "scores": response.scores,
            "rank": response.rank,
            "critique": response.critique,
        }
        rows.append({key: value for key, value in row.items() if value not in (None, [], {})})
    return rows


def _scores(record: Record) -> dict[str, list[float | None]]:
    """``{name: [of chosen, of rejected]}``."""
    names = sorted({*record.chosen_scores, *record.rejected_scores})
    return {name: [record.chosen_scores.get(name), record.rejected_scores.get(name)] for name in names}


# ---- the page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What became of a page: records shown, lines that could not be read, distinct pictures, bytes, media without."""

    records: int
    unreadable: int
    pictures: int
    bytes: int
    unopened: Mapping[str, int]


def write(
    records: RecordFile, chosen: Iterable[int], output: Path, *, pixels: int = 160, selection: str = ""
) -> Written:
    """Write the page, whole or not at all. The same records and pictures give the same bytes.

    Args:
        records: the file.
        chosen: which of its rows are shown, in this order.
        output: the HTML file.
        pixels: the longer side of a thumbnail; 0 for a page without pictures.
        selection: said above the records, where not all are shown.

    Raises:
        InputError: none of the rows can be read, or the page would have more than `MOST_BYTES`.
    """
    gallery = _Gallery(records, chosen, pixels, selection)
    size = 0
    with atomic_write(output) as file:
        for piece in gallery.pieces():
            data = piece.encode()
            size += len(data)
            if size > MOST_BYTES:
                raise InputError(
                    f"would be larger than {MOST_BYTES // 1_000_000} MB after {gallery.read} records: show fewer "
                    "(--limit), smaller pictures (--thumbnails) or none (--no_pictures)",
                    file=output,
                )
            file.write(data)
    seen = gallery.thumbnails
    pictures = seen.count - seen.unopened.total()
    return Written(len(gallery.rows), len(gallery.problems), pictures, size, seen.unopened)


class _Gallery:
    """The page while it is written: pictures go out as they come, rows are held until all are read."""

    def __init__(self, records: RecordFile, chosen: Iterable[int], pixels: int, selection: str) -> None:
        self.records, self.chosen, self.selection = records, chosen, selection
        self.thumbnails = Thumbnails(Path(records.media_root), pixels)
        self.maker = Rows(self.thumbnails)
        self.rows: list[str] = []
        self.problems: list[list[Any]] = []
        self.read = 0

    def pieces(self) -> Iterator[str]:
        """The page in pieces of text."""
        from markupsafe import Markup

        environment = templates()
        script = environment.get_template("gallery.js.j2").render()
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return environment.get_template("gallery.html.j2").generate(
            title=self.records.path.name,
            changes=(),
            script=Markup(script),
            script_hash=digest,
            pictures=(Markup(as_json(block)) for block in self._blocks()),
            data=(Markup(text) for text in self._data()),
            version=__version__,
        )

    def _blocks(self) -> Iterator[list[Any]]:
        for index in self.chosen:
            self.read += 1
            line = self.records.line_of(index)
            try:
                self.rows.append(as_json(self.maker.row(self.records[index], line)))
            except InputError as error:
                self.problems.append([line, error.field or "", error.problem])
            yield from self.thumbnails.full_blocks()
        if not self.rows:
            raise InputError("no line of it can be read: see mmalign validate", file=self.records.path)
        if rest := self.thumbnails.rest():
            yield rest

    def _data(self) -> Iterator[str]:
        """One JSON object, in pieces: a page of many records is never one string."""
        about = {
            "selection": self.selection,
            "block": BLOCK,
            "noPictures": not self.thumbnails.pixels,
            "shared": self.maker.shared,
            "problems": self.problems,
            "drops": drops_of(self.records.path),
        }
        yield as_json(about).removesuffix("}") + ',"records":['
        for number, row in enumerate(self.rows):
            yield ("," if number else "") + row
        yield "]}"


def drops_of(path: Path) -> dict[str, Any] | None:
    """Sources that gave no record, from the run beside the file: ``{"reasons": counts, "rows": [...]}``."""
    file = Path(f"{path}.run", "drops.jsonl")
    if not file.is_file():
        return None
    reasons: dict[str, int] = {}
    rows: list[list[str]] = []
    for row in RowFile(file):
        source, reason, detail = (str(row.get(key, "")) for key in ("source", "reason", "detail"))
        reasons[reason] = reasons.get(reason, 0) + 1
        if len(rows) < MOST_DROPS:
            rows.append([source, reason, detail])
    ordered: Sequence[tuple[str, int]] = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return {"reasons": ordered, "rows": rows} if rows else None


def as_json(value: Any) -> str:
    """Compact JSON that can stand in a script element: no ``<`` is left that could end it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
