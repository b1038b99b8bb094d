"""`mmalign convert`: other projects' preference data into records, and records into their formats.

What a format is, `mmalign.interop.formats` says. What is lost on the way is counted, and listed beside the output.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from mmalign import plugins
from mmalign.interop import _tables
from mmalign.interop._media import Media
from mmalign.records import InputError, Record, RecordFile, atomic_write, json_line
from mmalign.runs import Drop

FORMATS = "mmalign.interop.formats"
HARMLESS = frozenset({"id", "group", "meta"})
"""Fields that no training reads: a format that cannot carry them may leave them out."""
_LEARNT = frozenset(one.name for one in fields(Record)) - HARMLESS
_NOTHING = (None, "", [], {})

_WORKERS = min(8, os.cpu_count() or 1)  # opening pictures is most of the work, and releases the interpreter's lock
_AHEAD = 4 * _WORKERS  # rows in memory


@dataclass
class Summary:
    """What became of the rows. ``left_out``: what is not read, or cannot be carried, and in how many of them."""

    rows: int = 0
    kept: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    media_root: Path | None = None


def read(
    source: str | Path,
    format: str,  # noqa: A002 - the word for it
    output: str | Path,
    *,
    media_root: str | Path | None = None,
    media_output: str | Path | None = None,
    check_media: bool = True,
    drop_extras: bool = False,
    options: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Summary:
    """Write the rows of ``source`` as records; what cannot be is listed in ``OUTPUT.drops.jsonl``.

    Args:
        source: a file, or a folder of files.
        format: a file of `mmalign.interop.formats`, or ``path/to/my_format.py``.
        output: record file; it appears when it is complete.
        media_root: folder that paths in the source start from; by default the source's own.
        media_output: folder for pictures that are inside the source; by default ``media`` beside the output.
        check_media: open the media that the source names; else they need not even exist.
        drop_extras: leave out columns that the format does not read, though training would learn from them.
        options: of the format, by its ``OPTIONS``.

    Raises:
        InputError: the source is malformed, has columns that training would learn from and the format does not read,
            or not a single row of it can be used; the output is there already.
    """
    module, source, output = _find(format, "record", "read"), Path(source), Path(output)
    _refuse_existing(output)
    media = _media(source, output, media_root, media_output, check_media)
    rows = getattr(module, "rows", _tables.rows)(source, **_checked(options or {}, module))
    name, ids, summary = _name(module), _Ids(), Summary()
    with (
        tqdm(desc=name, unit="row", disable=not progress) as bar,
        atomic_write(output) as file,
        _drop_list(output) as drop,  # the last to be opened is the first to be there
    ):
        rows = _surveyed(rows, module, source, drop_extras, summary.left_out)
        for place, result in _ahead(partial(_record, module, name, media), rows):
            summary.rows += 1
            bar.update()
            if isinstance(result, Drop):
                summary.drops[result.reason] += 1
                drop(place, result)
                continue
            summary.media_root = media.base  # here, so that what no media root can mend ends it at once
            file.write(json_line(replace(result, id=ids.unique(result.id))))
            summary.kept += 1
        _refuse_nothing(source, summary, f"as {name}", drop.first, media)
    return summary


def write(
    source: str | Path,
    format: str,  # noqa: A002
    target: str | Path,
    *,
    media_root: str | Path | None = None,
    drop_extras: bool = False,
    progress: bool = True,
) -> Summary:
    """Write a record file in another format; records that cannot be are listed in ``TARGET.drops.jsonl``.

    Args:
        source: record file.
        format: a file of `mmalign.interop.formats`, or ``path/to/my_format.py``.
        target: where it goes; what it is (a file, its ending) is the format's to say.
        media_root: folder that the records' media names start from; by default the file's own.
        drop_extras: leave out what the format cannot carry, though it changes what is learnt.

    Raises:
        InputError: a record is malformed, lacks what the format needs, or has what it cannot carry.
    """
    module, target = _find(format, "row", "write"), Path(target)
    _refuse_existing(target)
    records = RecordFile(source, media_root)
    media = Media(records.media_root, records.media_root, records.media_root)
    summary = Summary(left_out=_survey(records, module, drop_extras), media_root=records.media_root)
    with _drop_list(target) as drop, tqdm(desc=_name(module), unit="record", disable=not progress) as bar:

        def rows() -> Iterator[Any]:
            places = ((f"{records.path.name}:{records.line_of(i)}", records[i]) for i in range(len(records)))
            for place, result in _ahead(partial(_row, module, media), places):
                summary.rows += 1
                bar.update()
                if isinstance(result, Drop):
                    summary.drops[result.reason] += 1
                    drop(place, result)
                    continue
                summary.kept += 1
                yield result
            _refuse_nothing(records.path, summary, f"for {_name(module)}", drop.first, media)

        getattr(module, "save", _tables.save)(rows(), target)
    return summary


# ---- one row ---------------------------------------------------------------------------------------------------------


def _record(module: ModuleType, name: str, media: Media, place: str, row: Any) -> Record | Drop:
    """The record of a row, validated; its id is the source's own, or the place."""
    try:
        said = module.record(row, media)
        identity = said.get("id")
        identity = place if identity is None or not str(identity).strip() else str(identity)
        return Record.parse({**said, "id": identity, "meta": {"format": name, "place": place, **said.get("meta", {})}})
    except InputError as error:
        return Drop(getattr(error, "reason", "invalid"), str(error))


def _row(module: ModuleType, media: Media, place: str, record: Record) -> Any:
    """The row of a record, less what the format cannot carry: which may leave nothing to learn from."""
    try:
        said = {key: value for key, value in record.to_json().items() if key in {"id", "prompt", *module.CARRIES}}
        return module.row(Record.parse(said), media)
    except InputError as error:
        return Drop(getattr(error, "reason", "invalid"), str(error))


def _ahead(work: Callable[..., Any], rows: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """(place, ``work(place, row)``) in the order of ``rows``, of which only some are taken in advance."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting: deque[tuple[str, Any]] = deque()
        for place, row in rows:
            waiting.append((place, pool.submit(work, place, row)))
            if len(waiting) > _AHEAD:
                place, result = waiting.popleft()
                yield place, result.result()
        while waiting:
            place, result = waiting.popleft()
            yield place, result.result()


class _Ids:
    """Ids as they come, each once: the second ``a`` is ``a#1``."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.repeats: Counter[str] = Counter()

    def unique(self, identity: str) -> str:
        """``identity``, or the first ``identity#n`` that nothing has yet."""
        name = identity
        while name in self.taken:
            self.repeats[identity] += 1
            name = f"{identity}#{self.repeats[identity]}"
        self.taken.add(name)
        return name


# ---- what a source or a target can carry -----------------------------------------------------------------------------


def _surveyed(
    rows: Iterable[tuple[str, Any]], module: ModuleType, source: Path, drop_extras: bool, unread: Counter[str]
) -> Iterator[tuple[str, Any]]:
    """The rows, counting the columns that hold something and are not read. InputError at the first that matters."""
    for place, row in rows:
        columns = row[-1] if isinstance(row, tuple) else row
        if isinstance(columns, Mapping) and (hasattr(module, "reads") or hasattr(module, "READS")):
            known = module.reads(row) if hasattr(module, "reads") else module.READS
            extras = {name for name, value in columns.items() if name not in known and value not in _NOTHING}
            unread.update(extras)
            matter = sorted(name for name in extras if name.startswith("rejected") or name in _LEARNT)
            if matter and not drop_extras:
                raise InputError(
                    f"{_name(module)} does not read {', '.join(matter)} (at {place}), and training learns from it: "
                    "choose another format, or leave it out with --drop_extras",
                    file=source,
                    field=matter[0],
                )
        yield place, row


def _survey(records: Sequence[Record], module: ModuleType, drop_extras: bool) -> Counter[str]:
    """Fields that the format cannot carry, with the number of records that have them. InputError where it matters."""
    lost, lacking = Counter[str](), Counter[str]()
    carries, needs = frozenset(module.CARRIES), frozenset(getattr(module, "NEEDS", ()))
    for record in records:
        given = record.to_json().keys()
        lost.update(given - carries - {"prompt"})
        lost.update(set(getattr(module, "lost", lambda _: ())(record)))
        lacking.update(needs - given)
    if lacking:
        name, count = min(lacking.items())
        problem = f"{_name(module)} needs {name}, which {count} of {len(records)} records do not have"
        raise InputError(problem, field=name)
    extras = Counter({name: count for name, count in lost.items() if name not in HARMLESS})
    if extras and not drop_extras:
        raise InputError(
            f"{_name(module)} cannot carry {_counts(extras)}, and training learns from it: choose another format, or "
            "leave it out with --drop_extras",
            field=min(extras),
        )
    return lost


def _counts(fields: Counter[str]) -> str:
    """``chosen_spans (of 3 records), weight (of 1)``."""
    said = [f"{name} (of {count} {{}})" for name, count in sorted(fields.items())]
    return ", ".join(said).replace("{}", "records", 1).replace(" {}", "")


# ---- files -----------------------------------------------------------------------------------------------------------


def _find(format: str, function: str, verb: str) -> ModuleType:  # noqa: A002
    module = plugins.find_module(FORMATS, format)
    if not hasattr(module, function):
        raise InputError(f"the format {format} cannot be {verb if verb == 'read' else 'written'}", field="format")
    return module


def _name(module: ModuleType) -> str:
    return Path(module.__file__).stem


def _checked(options: Mapping[str, str], module: ModuleType) -> Mapping[str, str]:
    """``options``, if the format has them all."""
    known = getattr(module, "OPTIONS", {})
    for name in options.keys() - known.keys():
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"{_name(module)} has no option {name!r} ({has})", field="option")
    return options


def _media(source: Path, output: Path, root: Any, store: Any, check: bool) -> Media:
    """Pictures that are written are named from the output's folder, or from a media root that holds them too."""
    own = source if source.is_dir() else source.parent
    store = Path(store) if store else output.parent / "media"
    homes = [Path(root)] if root else []
    homes += [output.parent, store]
    home = next(folder for folder in homes if store.resolve().is_relative_to(folder.resolve()))
    return Media(Path(root) if root else own, store, home, check=check)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise InputError("is there already; give another --output", file=path)


def _refuse_nothing(source: Path, summary: Summary, what: str, first: str, media: Media) -> None:
    if not summary.kept:
        why = f"the first of {summary.rows} rows: {first}" if summary.rows else "it holds no row"
        if summary.drops["missing"]:
            why += f"; names start from {media.root}: is --media_root right?"
        raise InputError(f"nothing in it can be used {what}; {why}", file=source)


class _Drops:
    """Appends to a drop list; the first one is remembered."""

    def __init__(self, file: Any) -> None:
        self.file, self.first = file, ""

    def __call__(self, place: str, drop: Drop) -> None:
        self.first = self.first or f"{place}: {drop.reason}: {drop.detail}"
        self.file.write(json_line({"source": place, "reason": drop.reason, "detail": drop.detail}))


def drop_list(output: Path) -> Path:
    """Where the dropped rows of a conversion are listed."""
    return Path(f"{output}.drops.jsonl")


@contextmanager
def _drop_list(output: Path) -> Iterator[_Drops]:
    """The drop list, which is there in the end if anything was dropped."""
    with atomic_write(drop_list(output)) as file:
        drops = _Drops(file)
        yield drops
    if not drops.first:
        drop_list(output).unlink()


# ---- the command line ------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the verb."""
    parser.description = (
        "Bring other projects' preference data into records, or records into their formats.\n"
        "Every row that cannot be converted is counted, and listed in OUTPUT.drops.jsonl.\n\n"
        f"formats, or path/to/file.py of your own:\n{_list_of_formats()}"
    )
    parser.epilog = (
        "Examples:\n"
        "  mmalign convert RLAIF-V-Dataset/ --from rlaif_v --output pairs.jsonl\n"
        "  mmalign convert dpo_pairs.jsonl --from mm_rlhf --media_root MM-RLHF --output pairs.jsonl\n"
        "  mmalign convert pairs.jsonl --to trl --output pairs.parquet"
    )
    parser.add_argument("input", type=Path, help="what to read: a file, or a folder of shards")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", metavar="FORMAT", help="read this format, write records")
    way.add_argument("--to", dest="target", metavar="FORMAT", help="read records, write this format")
    parser.add_argument("--output", type=Path, required=True, help="what to write")
    parser.add_argument("--media_root", type=Path, help="folder that media paths start from (default: the input's own)")
    parser.add_argument(
        "--media_output", type=Path, help="with --from: folder for pictures that the input holds as bytes"
    )
    parser.add_argument("--no_media", action="store_true", help="with --from: do not look at the media files it names")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="with --from: an option of FORMAT, see above",
    )
    parser.add_argument(
        "--drop_extras", action="store_true", help="leave out what FORMAT does not read, or cannot carry"
    )


def command(options: argparse.Namespace) -> int:
    """Convert, and print what became of the rows."""
    if options.source:
        summary = read(
            options.input,
            options.source,
            options.output,
            media_root=options.media_root,
            media_output=options.media_output,
            check_media=not options.no_media,
            drop_extras=options.drop_extras,
            options=_named_values(options.option),
        )
    else:
        for name in ("media_output", "no_media", "option"):
            if getattr(options, name):
                raise InputError("goes with --from", field=name)
        summary = write(
            options.input,
            options.target,
            options.output,
            media_root=options.media_root,
            drop_extras=options.drop_extras,
        )
    print(_report(summary, options))
    return 0


def _named_values(given: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping."""
    pairs = [text.partition("=") for text in given]
    for text, (_, sign, _) in zip(given, pairs, strict=True):
        if not sign:
            raise InputError(f"expected NAME=VALUE, got {text!r}", field="option")
    return {name: value for name, _, value in pairs}


def _list_of_formats() -> str:
    lines = []
    for name in plugins.names(FORMATS):
        module = plugins.find_module(FORMATS, name)
        ways = [way for way, function in (("reads", "record"), ("writes", "row")) if hasattr(module, function)]
        lines.append(f"  {name:<15} {plugins.summary(FORMATS, name)} ({', '.join(ways)})")
        lines += [
            f"  {'':<15}   --option {option}=...: {text}" for option, text in getattr(module, "OPTIONS", {}).items()
        ]
    return "\n".join(lines)


def _report(summary: Summary, options: argparse.Namespace) -> str:
    output = options.output
    lines = [f"{output}: {summary.kept} of {summary.rows} {'rows' if options.source else 'records'}"]
    for reason, count in sorted(summary.drops.items()):
        lines.append(f"  {f'dropped: {reason}':<32} {count:>8} {count / summary.rows:>7.1%}")
    for name, count in sorted(summary.left_out.items()):
        lost = f"{'not read' if options.source else 'left out'}: {name}"
        lines.append(f"  {lost:<32} {count:>8} {count / summary.rows:>7.1%}")
    if summary.drops:
        lines.append(f"what was dropped, and why: {drop_list(output)}")
    if options.source and summary.media_root and summary.media_root != output.resolve().parent:
        lines.append(f"media paths start from {summary.media_root}: train with --media_root {summary.media_root}")
    return "\n".join(lines)
