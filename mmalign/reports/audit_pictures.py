"""The audit's questions about pictures: negatives that show the same thing, and pictures of an evaluation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mmalign.media import open_image
from mmalign.media.hashes import content_hash, correlation, dhash_of, hamming, thumbnail
from mmalign.records import InputError, media_path
from mmalign.reports.audit import Finding, Row, Tally, percent

NEAR = 4
"""Pictures are near where at most this many of the 64 bits of their difference hashes differ, ..."""

ALIKE = 0.99
"""... and their thumbnails correlate at least so much."""

SUFFIXES = frozenset((".bmp", ".gif", ".jpg", ".jpeg", ".png", ".ppm", ".tif", ".tiff", ".webp"))


class Signature(NamedTuple):
    """What is kept of a picture.

    Attributes:
        file: the first 64 bits of the SHA-256 of the file.
        pixels: the first 64 bits of its `content_hash`.
        dhash: see `mmalign.media.hashes.dhash`.
        grey: its `thumbnail`, 72 bytes; empty where only hashes are known.
        size: width and height.
    """

    file: int
    pixels: int
    dhash: int
    grey: bytes
    size: tuple[int, int]


def sign(path: Path) -> Signature:
    """The signature of a picture file.

    Raises:
        MediaError: it cannot be opened.
    """
    image = open_image(path)
    grey = thumbnail(image)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Signature(_bits(digest), _bits(content_hash(image)), dhash_of(grey), grey.tobytes(), image.size)


def _bits(digest: str) -> int:
    return int(digest[:16], 16)


def likeness(a: Signature, b: Signature) -> str | None:
    """``file``, ``pixels`` or ``near``: in what two pictures are the same, or None."""
    if a.file == b.file:
        return "file"
    if a.pixels == b.pixels:
        return "pixels"
    near = hamming(a.dhash, b.dhash) <= NEAR and correlation(_array(a.grey), _array(b.grey)) >= ALIKE
    return "near" if near else None


def _array(grey: bytes) -> np.ndarray:
    return np.frombuffer(grey, dtype=np.uint8).reshape(8, 9)


class Pictures:
    """Signatures of the pictures of a record file. Called on a path it opens the picture, once for each path."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._by_path: dict[str, Signature] = {}
        self._by_name: dict[str, Signature | None] = {}

    def __call__(self, path: Path) -> None:
        """Open the picture at ``path`` and keep its signature; raises MediaError."""
        self._by_path[str(path)] = sign(path)

    def of(self, name: str) -> Signature | None:
        """The signature of a medium that a record names; None where it was not opened or could not be."""
        if name not in self._by_name:
            try:
                self._by_name[name] = self._by_path.get(str(media_path(name, self.root)))
            except InputError:
                self._by_name[name] = None
        return self._by_name[name]

    def content(self, name: str) -> int | str:
        """What tells whether two media are the same: their pixels where they are known, else their name."""
        signature = self.of(name)
        return name if signature is None else signature.pixels


# ---- negatives -------------------------------------------------------------------------------------------------------

_SAME = {
    "file": "the same file, byte by byte",
    "pixels": "the same pixels in another file",
    "near": f"nearly the same picture (at most {NEAR} of 64 bits of the difference hash, thumbnails alike): look at it",
}
_ORDER = (*_SAME, None)


@dataclass
class Negatives:
    """Visual negatives that show what the record's own picture shows."""

    pictures: Pictures
    records: int = 0
    same: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in _SAME})

    def add(self, row: Row) -> None:
        """See `Check`."""
        own, other = row.record.images, row.record.rejected_images
        if not other or row.record.rejected_videos not in ((), row.record.videos):
            return
        self.records += 1
        kinds = [self._likeness(a, b) for a, b in zip(own, other, strict=True)]
        kind = max(kinds, key=_ORDER.index)  # one picture that differs is enough
        if kind:
            self.same[kind].add(row.line)

    def _likeness(self, own: str, other: str) -> str | None:
        if own == other:
            return "file"
        a, b = self.pictures.of(own), self.pictures.of(other)
        return likeness(a, b) if a and b else None

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        for kind, tally in self.same.items():
            if tally.count:
                yield Finding(
                    f"negative_{kind}",
                    True,
                    f"{tally.count} of {self.records} records with a negative picture "
                    f"({percent(tally.count / self.records)}) show {_SAME[kind]}. Such pairs teach "
                    "that looking makes no difference.",
                    tally.count,
                    tuple(tally.lines),
                    numbers={"negatives": self.records},
                )


# ---- pictures of an evaluation ---------------------------------------------------------------------------------------


class Evaluation:
    """The pictures that a model will be judged by: folders of them, or files with their hashes.

    A folder is searched at all depths. A file holds one picture a line: a hash in hexadecimal, of 64 digits (SHA-256
    of the file, as ``sha256sum`` prints it), 32 (`content_hash`) or 16 (`dhash`), and whatever behind it; or a JSON
    object with any of ``file``, ``pixels`` and ``dhash``, and perhaps a ``name``.

    Raises:
        InputError: there is no such thing, no picture in it, or a line without a hash.
    """

    def __init__(self, places: Iterable[Path]) -> None:
        self.unreadable = 0
        self._names: list[str] = []
        self._files: dict[int, int] = {}
        self._pixels: dict[int, int] = {}
        self._dhashes: list[int] = []
        self._greys: list[bytes] = []
        self._near: list[int] = []  # number in _names, for each of _dhashes
        for place in map(Path, places):
            before = len(self._names)
            self._read_folder(place) if place.is_dir() else self._read_list(place)
            if len(self._names) == before:
                raise InputError("holds no picture and no hash", file=place, field="leaks")
        self._table = np.array(self._dhashes, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._names)

    def find(self, signature: Signature) -> tuple[str, str] | None:
        """How a picture is among them (``file``, ``pixels``, ``near``), and the name of that one; or None."""
        for kind, known in (("file", self._files), ("pixels", self._pixels)):
            if (number := known.get(getattr(signature, kind))) is not None:
                return kind, self._names[number]
        for place in np.flatnonzero(_distances(self._table, signature.dhash) <= NEAR):
            grey = self._greys[place]
            if not grey or correlation(_array(grey), _array(signature.grey)) >= ALIKE:
                return "near", self._names[self._near[place]]
        return None

    def _read_folder(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        for path in tqdm(files, desc=f"pictures of {folder}", unit="picture", disable=None):
            try:
                signature = sign(path)
            except InputError:
                self.unreadable += 1
                continue
            self._add(str(path), signature.file, signature.pixels, signature.dhash, signature.grey)

    def _read_list(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"cannot be read as a folder or a list of hashes: {getattr(error, 'strerror', None) or error}"
            raise InputError(problem, file=path, field="leaks") from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self._add(*_hashes(line.strip(), path, number))

    def _add(self, name: str, file: int | None, pixels: int | None, dhash: int | None, grey: bytes = b"") -> None:
        number = len(self._names)
        self._names.append(name)
        if file is not None:
            self._files.setdefault(file, number)
        if pixels is not None:
            self._pixels.setdefault(pixels, number)
        if dhash is not None:
            self._dhashes.append(dhash)
            self._greys.append(grey)
            self._near.append(number)


_HASH = re.compile(r"\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{32}|[0-9a-fA-F]{16})(?:\s+\*?(.*))?$")
_DIGITS = {"file": 64, "pixels": 32, "dhash": 16}


def _hashes(line: str, path: Path, number: int) -> tuple[str, int | None, int | None, int | None]:
    """Name, file, pixels and dhash of one line of a list."""
    if line.startswith("{"):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"malformed JSON: {error}", file=path, line=number, field="leaks") from None
        given = {kind: str(row[kind]) for kind in _DIGITS if row.get(kind) is not None}
        name = str(row.get("name", f"{path}:{number}"))
    else:
        match = _HASH.match(line)
        given = {kind: match[1] for kind, digits in _DIGITS.items() if match and len(match[1]) == digits}
        name = (match[2] if match else None) or f"{path}:{number}"
    wrong = [kind for kind, text in given.items() if not re.fullmatch(f"[0-9a-fA-F]{{{_DIGITS[kind]}}}", text)]
    if wrong or not given:
        problem = "expected a hash of 64 (file), 32 (pixels) or 16 (dhash) hexadecimal digits"
        raise InputError(problem, file=path, line=number, field=wrong[0] if wrong else "leaks")
    return name, *(_bits(given[kind]) if kind in given else None for kind in _DIGITS)


_BITS = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


def _distances(hashes: np.ndarray, wanted: int) -> np.ndarray:
    """In how many bits each of ``hashes`` differs from ``wanted``. Shape: (N,) -> (N,)."""
    return _BITS[(hashes ^ np.uint64(wanted)).view(np.uint8).reshape(-1, 8)].sum(axis=1)


_LEAKS = {
    "file": "are files of the evaluation, byte by byte",
    "pixels": "have the pixels of a picture of the evaluation",
    "near": "are nearly pictures of the evaluation (scaled, compressed anew, or alike by chance: look at them)",
}


@dataclass
class Leaks:
    """Records whose pictures the model will be judged by."""

    pictures: Pictures
    evaluation: Evaluation
    found: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in _LEAKS})
    names: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in _LEAKS})
    _known: dict[str, tuple[str, str] | None] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """See `Check`."""
        kinds = set()
        for name in (*row.record.images, *row.record.rejected_images):
            if name not in self._known:
                signature = self.pictures.of(name)
                self._known[name] = self.evaluation.find(signature) if signature else None
            if match := self._known[name]:
                kinds.add(match[0])
                self.names[match[0]][name] = match[1]
        for kind in kinds:
            self.found[kind].add(row.line)

    def findings(self) -> Iterator[Finding]:
        """See `Check`."""
        for kind, tally in self.found.items():
            names = self.names[kind]
            if names:
                yield Finding(
                    f"leak_{kind}",
                    True,
                    f"{len(names)} pictures in {tally.count} records {_LEAKS[kind]}: {_first(names)}.",
                    tally.count,
                    tuple(tally.lines),
                    numbers={"pictures": len(names), "evaluation": len(self.evaluation)},
                )
        clean = not any(tally.count for tally in self.found.values())
        broken = f"; {self.evaluation.unreadable} more cannot be opened" if self.evaluation.unreadable else ""
        if clean or broken:
            yield Finding(
                "leaks",
                bool(broken),
                f"{'None of' if clean else 'Looked for'} {len(self.evaluation)} pictures of the evaluation"
                f"{' is here' if clean else ''}{broken}.",
            )


def _first(names: dict[str, str], shown: int = 3) -> str:
    pairs: Sequence[str] = [f"{name} is {other}" for name, other in list(names.items())[:shown]]
    return ", ".join(pairs) + (", ..." if len(names) > shown else "")
