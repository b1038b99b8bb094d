"""`mmalign validate`: every problem of a record file, by line, and what spoils it as a whole."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmalign.media import open_image
from mmalign.records import RecordFile, validate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.description = (
        "Check every record of a JSONL file: fields, messages, placeholders, and that its pictures open."
    )
    parser.epilog = "Example: mmalign validate pairs.jsonl --media_root images"
    parser.add_argument("file", type=Path, help="record file (JSONL)")
    parser.add_argument("--media_root", type=Path, help="folder that media paths start from (default: the file's own)")
    parser.add_argument("--no_media", action="store_true", help="do not open the pictures")


def command(options: argparse.Namespace) -> int:
    """Print what is wrong; 1 if anything is."""
    count, problems = len(RecordFile(options.file)), 0
    for problem in validate(options.file, options.media_root, None if options.no_media else open_image):
        print(problem)
        problems += 1
    print(f"{options.file}: {count} records, {problems or 'no'} problem{'' if problems == 1 else 's'}")
    return 1 if problems else 0
