"""`mmalign inspect`: look at a record file, in one page that asks for nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmalign import runs
from mmalign.records import InputError, RecordFile
from mmalign.reports import gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.description = (
        "Write one HTML page to look through a record file: pictures beside their negatives, both answers with what "
        "differs marked, scores, filters, histograms. It opens without a server and loads nothing."
    )
    parser.epilog = (
        "Example: mmalign inspect pairs.jsonl --media_root images --output pairs.html --limit 2000 --sample 0"
    )
    parser.add_argument("file", type=Path, help="record file (JSONL)")
    parser.add_argument("--output", type=Path, required=True, help="page to write (HTML)")
    parser.add_argument("--media_root", type=Path, help="folder that media paths start from (default: the file's own)")
    parser.add_argument("--limit", type=int, default=10_000, help="most records on the page (default: %(default)s)")
    parser.add_argument("--sample", type=int, metavar="SEED", help="take them at random, not the first ones")
    parser.add_argument(
        "--thumbnails", type=int, default=160, metavar="PIXELS", help="longer side of a picture (default: %(default)s)"
    )
    parser.add_argument("--no_pictures", action="store_true", help="leave pictures out: a page of texts and numbers")


def command(options: argparse.Namespace) -> int:
    """Write the page and say how large it is.

    Raises:
        InputError: there is no record, an option is out of range, or the page would be too large.
    """
    for name, least in (("limit", 1), ("thumbnails", 16)):
        if getattr(options, name) < least:
            raise InputError(f"must be {least} or more, got {getattr(options, name)}", field=name)
    _refuse(options.output, options.file)
    records = RecordFile(options.file, options.media_root)
    if not len(records):
        raise InputError("holds no record", file=options.file)
    rows, selection = choose(len(records), options.limit, options.sample)
    written = gallery.write(
        records,
        tqdm(rows, desc="records", unit="record", disable=None),
        options.output,
        pixels=0 if options.no_pictures else options.thumbnails,
        selection=selection,
    )
    print(_said(options.output, written, selection, records.media_root))
    return 0


def _refuse(output: Path, file: Path) -> None:
    """An output that is something else than an older page."""
    if output.resolve() == file.resolve():
        raise InputError("is the record file itself: give another --output", file=output)
    if output.is_dir():
        raise InputError("is a folder: name the page in it", file=output, field="output")
    if output.exists() and not (output.is_file() and _begins_as_a_page(output)):
        raise InputError("is no HTML page, and would be lost: give another --output", file=output, field="output")


def _begins_as_a_page(file: Path) -> bool:
    doctype = b"<!doctype html"
    with file.open("rb") as opened:
        return opened.read(len(doctype)).lower() == doctype


def choose(count: int, limit: int, seed: int | None) -> tuple[Sequence[int], str]:
    """Which of ``count`` rows are shown, in their order, and that in words; empty words where all are."""
    if count <= limit:
        return range(count), ""
    if seed is None:
        return range(limit), f"the first {limit:,} of {count:,} records"
    draws = runs.uniform(np.arange(count), seed % 2**32)
    taken = np.sort(np.argsort(draws, kind="stable")[:limit]).tolist()
    return taken, f"{limit:,} of {count:,} records, drawn with seed {seed}"


def _said(output: Path, written: gallery.Written, selection: str, media_root: Path) -> str:
    size = written.bytes / written.records
    lines = [
        f"{output}: {selection or f'{written.records:,} records'}, {written.pictures:,} pictures, "
        f"{written.bytes / 1e6:.1f} MB ({size / 1e3:.1f} kB a record)"
    ]
    if selection:
        lines.append("  more of them: --limit N; others: --sample SEED")
    if written.unreadable:
        lines.append(
            f"  lines that cannot be read: {written.unreadable}; the page lists them, as mmalign validate does"
        )
    if written.unopened:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(written.unopened.items()))
        hint = f": names start from {media_root}; is --media_root right?" if "missing" in written.unopened else ""
        lines.append(f"  {sum(written.unopened.values()):,} media cannot be opened ({reasons}){hint}")
    return "\n".join(lines)
