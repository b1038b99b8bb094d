"""Rows in and out: JSONL, JSON lists and parquet, one file or a folder of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmalign.records import InputError, atomic_write, json_line, read_jsonl

LARGE = 256 * 2**20
"""Bytes of a JSON list from which on it is said that all of it has to be in memory."""

BATCH = 64
"""Rows of a parquet file that are decoded at a time. They may hold pictures."""


def rows(source: Path) -> Iterator[tuple[str, Any]]:
    """(place, row) of every row of a file, or of all files of a folder, by name, that have one ending.

    A place is ``shard.parquet:17``: the file, and the line of JSONL or the row, counted from 1. JSONL and parquet
    are read as they are asked for; a JSON list is loaded whole.

    Raises:
        InputError: the source is not there, is of another kind, or is malformed; names file and line or row.
    """
    for file in files(source):
        name = file.name if file == source else file.relative_to(source).as_posix()
        for number, row in _READERS[file.suffix](file):
            yield f"{name}:{number}", row


def files(source: Path) -> list[Path]:
    """The file, or those of a folder: parquet if it has any, or else JSONL, or else JSON."""
    if source.is_file():
        if source.suffix not in _READERS:
            raise InputError(f"ends in none of {', '.join(_READERS)}", file=source)
        return [source]
    if not source.is_dir():
        raise InputError("no such file or folder", file=source)
    for ending in _READERS:
        found = sorted(path for path in source.rglob(f"*{ending}") if path.is_file() and not _hidden(path, source))
        if found:
            return found
    raise InputError(f"no file in it ends in any of {', '.join(_READERS)}", file=source)


def _hidden(path: Path, folder: Path) -> bool:
    """Whether its name, or that of a folder on the way, begins with a point: caches and unfinished files."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            features = _features(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _decoded(row, features)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: texts that are not UTF-8, or not JSON
        problem = str(error).strip().partition("\n")[0]
        raise InputError(f"cannot be read as parquet after row {number}: {problem}", file=path) from None


def _features(metadata: Mapping[bytes, bytes]) -> Any:
    """The columns as `datasets` described them in a file that it wrote, if some hold JSON."""
    said = metadata.get(b"huggingface", b"")
    return json.loads(said).get("info", {}).get("features") if b'"Json"' in said else None


def _decoded(value: Any, feature: Any) -> Any:
    """A value in which texts that `datasets` calls Json, at any depth, are what they say."""
    if value is None or not feature:
        return value
    kind = feature.get("_type") if isinstance(feature, Mapping) else None
    if kind == "Json":
        return json.loads(value)
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else feature.get("feature")
        return [_decoded(item, inner) for item in value]
    if isinstance(value, Mapping) and not isinstance(kind, str):
        return {name: _decoded(item, feature.get(name)) for name, item in value.items()}
    return value


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    yield from read_jsonl(path, lambda row, file, line: (line, row))


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """A list; or, as some projects name it, JSON lines."""
    try:
        with path.open("rb") as file:
            first = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if first == b"{":
        yield from _jsonl(path)
        return
    content = load_json(path)
    if not isinstance(content, list):
        raise InputError("expected a list of rows", file=path)
    yield from enumerate(content, start=1)


def load_json(path: Path) -> Any:
    """A JSON file, whole. Raises InputError with file and line."""
    try:
        size = path.stat().st_size
        if size > LARGE:
            print(f"{path}: a JSON list of {size / 2**30:.1f} GiB is loaded whole; JSONL is not", file=sys.stderr)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start + 1}", file=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"malformed JSON at column {error.colno}: {error.msg}", file=path, line=error.lineno) from None
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise InputError(f"malformed JSON: {error}", file=path) from None


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".json": _json,
}


def save(rows: Iterable[Any], target: Path) -> None:
    """Writes rows that JSON can hold, as lines (``.jsonl``) or as one list (``.json``), whole or not at all."""
    if target.suffix not in (".jsonl", ".json"):
        raise InputError("must end in .jsonl or .json", file=target)
    opening, between, end = (b"[\n", b",\n", b"\n]\n") if target.suffix == ".json" else (b"", b"\n", b"\n")
    with atomic_write(target) as file:
        for number, row in enumerate(rows):
            file.write((between if number else opening) + json_line(row).rstrip(b"\n"))
        file.write(end)


def part_of(target: Path, part: str) -> Path:
    """The file of a part: ``pairs_sft.jsonl`` of ``pairs.jsonl``; the target itself for the part without a name."""
    return target.with_stem(f"{target.stem}_{part}") if part else target


def save_parts(rows: Iterable[tuple[str, Any]], target: Path) -> dict[str, Path]:
    """Writes (part, row) as JSON lines, each part into a file of its own; if there is one part, that is the target.

    Returns:
        The file of each part that has rows.

    Raises:
        InputError: the target does not end in ``.jsonl``, or the file of a part is there already.
    """
    if target.suffix != ".jsonl":
        raise InputError("must end in .jsonl", file=target)
    files: dict[str, Any] = {}
    with ExitStack() as stack:
        for part, row in rows:
            if part not in files:
                if part_of(target, part).exists():
                    raise InputError("is there already; give another --output", file=part_of(target, part))
                files[part] = stack.enter_context(atomic_write(part_of(target, part)))
            files[part].write(json_line(row))
    saved = {part: part_of(target, part) for part in files}
    if len(saved) == 1:
        [part] = saved
        saved[part] = saved[part].rename(target)
    return saved
