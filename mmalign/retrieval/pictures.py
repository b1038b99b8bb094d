"""Names of the pictures that are to be indexed."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmalign import checks
from mmalign.records import InputError, read_jsonl

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What a picture's file is called; of formats that `mmalign.media.open_image` reads."""


def in_folder(folder: str | Path, root: str | Path | None = None) -> list[str]:
    """Names of all pictures below ``folder``, hidden files left out, in order. They start from ``root``, or from it.

    Raises:
        InputError: it is no folder, not inside ``root``, or holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", file=folder)
    start = Path(os.path.relpath(folder.resolve(), Path(root or folder).resolve()))
    if start.parts[:1] == ("..",):
        raise InputError(f"is not inside the media root {root} (--media_root)", file=folder)
    found = [name for name in _files(folder, start) if posixpath.splitext(name)[1].lower() in SUFFIXES]
    if not found:
        raise InputError(f"holds no picture ({', '.join(sorted(SUFFIXES))} are looked for)", file=folder)
    return in_order(found)


def _files(folder: Path, start: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = start / os.path.relpath(parent, folder)
        yield from (str(here / name) for name in files if not name.startswith("."))


def in_records(file: str | Path) -> list[str]:
    """Names of all pictures that a JSONL file's rows name, as ``images`` or ``image``, each once, in order.

    Raises:
        InputError: at the first row whose names cannot be used; or there is no name at all.
    """
    found = {name for names in read_jsonl(file, _names_of) for name in names}
    if not found:
        raise InputError("names no picture: rows have images, a list, or image", file=file)
    return in_order(found)


def _names_of(row: Any, *, file: Path, line: int) -> tuple[str, ...]:
    with checks.located(file, line):
        checks.expect(row, dict, "an object")
        names = row.get("images") or ([row["image"]] if row.get("image") is not None else [])
        with checks.within("images" if "images" in row else "image"):
            return checks.media_names(names)


def in_order(names: Iterable[str]) -> list[str]:
    """Distinct names, each spelled in one way, in the order of their UTF-8.

    What is no UTF-8 in a file's name, which no record can name, is spelled out; the file then counts as missing.
    """
    return sorted({spelled(os.fsencode(name).decode("utf-8", "backslashreplace")) for name in names})


def spelled(name: str) -> str:
    """``./a//b.png`` and ``a/b.png`` are one name."""
    return posixpath.normpath(name)
