"""`mmalign validate`: every problem of a record file, by line, and what spoils it as a whole."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from mmalign.media import FrameChoice
from mmalign.records import NO_FILE, InputError, Record, RowFile, validate
from mmalign.reports.audit import Check, Finding, Row, as_text
from mmalign.reports.audit_pictures import Evaluation, Leaks, Negatives, Pictures
from mmalign.reports.audit_texts import Fields, LengthBias, Repeats, SameTexts, Scores, YesNo, word_counts
from mmalign.reports.audit_tokens import Clips, TokenLengths, load_counter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.description = (
        "Check every record of a JSONL file (fields, messages, placeholders, and that its pictures open), then report "
        "what spoils it as a whole: length bias, repetition, contradictions, negatives that show the same, yes and no "
        "out of balance, pictures of an evaluation. The exit status is 1 if a record is wrong, or, with --strict, if "
        "there is a warning."
    )
    parser.epilog = (
        "Example: mmalign validate pairs.jsonl --media_root images --processor MODEL --max_length 2048 --leaks coco/val"
    )
    parser.add_argument("file", type=Path, help="record file (JSONL)")
    parser.add_argument("--media_root", type=Path, help="folder that media paths start from (default: the file's own)")
    parser.add_argument("--no_media", action="store_true", help="do not open the pictures")
    parser.add_argument("--processor", metavar="MODEL", help="count tokens for this model; its weights are not loaded")
    parser.add_argument("--max_length", type=int, help="report records with more tokens, media included")
    parser.add_argument(
        "--frames", type=int, default=8, help="frames of each clip that are looked at, and counted (default 8)"
    )
    parser.add_argument("--fps", type=float, help="so many frames of each second of a clip, at most --frames")
    parser.add_argument("--video_pixels", type=int, help="most pixels of all frames of a clip together (default: any)")
    parser.add_argument(
        "--video", default="auto", help="how the model sees clips: native, frames (as pictures), or auto (default)"
    )
    parser.add_argument(
        "--leaks",
        type=Path,
        nargs="+",
        default=[],
        metavar="PLACE",
        help="pictures that the model will be judged by: folders, or files with a hash a line (as sha256sum prints)",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as problems: exit status 1")
    parser.add_argument("--json", action="store_true", help="print all as one JSON object")


def command(options: argparse.Namespace) -> int:
    """Print what is wrong; 1 if anything is.

    Raises:
        InputError: the file cannot be read, options do not fit each other, or what they name cannot be loaded.
    """
    _refuse(options)
    count = len(RowFile(options.file))
    pictures = Pictures(options.media_root or options.file.parent)
    clips = Clips(FrameChoice(options.frames, options.fps, options.video_pixels))
    checks = _checks(options, pictures, clips)
    problems: list[InputError] = []
    with_media = 0
    with tqdm(total=count, desc="records", unit="record", disable=None) as bar:

        def add(record: Record, line: int) -> None:
            nonlocal with_media
            with_media += bool(record.images or record.videos or record.rejected_images or record.rejected_videos)
            row = Row(record, line)
            for check in checks:
                check.add(row)
            bar.update()

        opened = None if options.no_media else pictures
        for problem in validate(options.file, options.media_root, opened, add, clips):
            problems.append(problem)
            if not options.json:
                bar.write(str(problem), file=sys.stdout)
    findings = [finding for check in checks for finding in check.findings()]
    lacking = {problem.line for problem in problems if problem.problem.startswith(NO_FILE)}
    if lacking and len(lacking) == with_media and not options.json:
        print(f"no record has all its media: names start from {pictures.root}; is --media_root right?")
    print((_json if options.json else _text)(options.file, count, problems, findings))
    return int(bool(problems) or (options.strict and any(finding.warning for finding in findings)))


def _refuse(options: argparse.Namespace) -> None:
    """Options that do not fit each other."""
    if options.max_length is not None and not options.processor:
        raise InputError("needs --processor MODEL, whose tokens are counted", field="max_length")
    for name in ("max_length", "frames", "video_pixels"):
        if (number := getattr(options, name)) is not None and number < 1:
            raise InputError(f"must be 1 or more, got {number}", field=name)
    for name in ("processor", "leaks"):
        if getattr(options, name) and options.no_media:
            raise InputError("has to look at the pictures: leave --no_media out", field=name)


def _checks(options: argparse.Namespace, pictures: Pictures, clips: Clips) -> list[Check]:
    """What is asked of the file, in the order of the report."""
    checks: list[Check] = [Repeats(pictures.content), SameTexts(), LengthBias("words", word_counts), YesNo()]
    checks += [Negatives(pictures)]
    if options.leaks:
        checks.append(Leaks(pictures, Evaluation(options.leaks)))
    if options.processor:
        with redirect_stdout(sys.stderr):  # what libraries say is no part of the report
            counter = load_counter(options.processor, pictures, clips, options.video)
        lengths = TokenLengths(counter, options.max_length)
        checks += [lengths, LengthBias("tokens", lengths.of_pair)]
    return [*checks, Scores(), Fields()]


def _text(file: Path, count: int, problems: list[InputError], findings: list[Finding]) -> str:
    warnings = sum(finding.warning for finding in findings)
    lead = f"{file}: {_number(count, 'record')}, {_number(len(problems), 'problem')}"
    return "\n\n".join(filter(None, [f"{lead}, {_number(warnings, 'warning')}", as_text(findings)]))


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _json(file: Path, count: int, problems: list[InputError], findings: list[Finding]) -> str:
    rows = [{"line": p.line, "field": p.field, "problem": p.problem} for p in problems]
    said = {"file": str(file), "records": count, "problems": rows, "findings": [asdict(f) for f in findings]}
    return json.dumps(said, ensure_ascii=False, indent=1, allow_nan=False)
