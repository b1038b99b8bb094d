"""LLaMA-Factory: sharegpt or alpaca rows with paths of media, and the dataset_info.json that describes them.

Layouts as in LLaMA-Factory 0.9.5 (``data/README.md``, ``src/llamafactory/data/converter.py``)::

    {"conversations": [{"from": "human", "value": "<image>What is this?"}], "images": ["a.png"], "videos": [],
     "chosen": {"from": "gpt", "value": "A cat."}, "rejected": {"from": "gpt", "value": "A dog."}}
    {"instruction": "<image>What is this?", "input": "", "chosen": "A cat.", "rejected": "A dog.", "images": ["a.png"]}

Read: a data file or a folder of them, or a ``dataset_info.json``, whose columns and tags are then followed as
LLaMA-Factory does (``--option dataset=NAME`` where it describes several). Paths start from its folder, or from
``--media_root``, which is their ``media_dir``. A row with ``kto_tag`` is one side of a pair; one with neither pair nor
``kto_tag`` has its last answer as chosen.

Written: ``TARGET.jsonl``, sharegpt rows, ``TARGET_sft.jsonl`` with the records that have no rejected answer (a data set
is ranked or not), and their entries in the ``dataset_info.json`` beside them, whose other entries stay. Paths are the
records' own. Where the records are elsewhere, train with ``media_dir`` set to their folder.

Tags are counted in answers too, so a record with a literal ``<image>`` in a text cannot be written; nor can turns that
do not alternate between user and assistant, media in the system's turn, or a part of a clip (``a.mp4#t=12,20``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmalign.interop import _tables, _tagged
from mmalign.interop._media import Media
from mmalign.interop._tagged import history
from mmalign.interop._turns import mapping, pair, question
from mmalign.interop.formats import Unfit
from mmalign.records import InputError, Message, Record, atomic_write

OPTIONS = {"dataset": "which entry of dataset_info.json"}

CARRIES = frozenset({"id", "chosen", "rejected", "images", "videos"})
NEEDS = ("chosen",)

INFO = "dataset_info.json"

# what our rows are called in the file that describes them
_COLUMNS = {name: name for name in ("chosen", "rejected", "images", "videos")} | {"messages": "conversations"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Layout:
    """What columns and speakers are called: an entry of dataset_info.json, with its defaults. None: no such column."""

    formatting: str = "alpaca"
    messages: str = "conversations"
    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = "history"
    system: str | None = "system"
    tools: str | None = "tools"
    images: str | None = "images"
    videos: str | None = "videos"
    audios: str | None = "audios"
    chosen: str | None = "chosen"
    rejected: str | None = "rejected"
    kto_tag: str | None = "kto_tag"
    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    system_tag: str = "system"


_OPENAI = Layout(
    "sharegpt", "messages", role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant"
)
_OPTIONAL = (
    *("prompt", "query", "response", "history", "system", "tools"),
    *("images", "videos", "audios", "chosen", "rejected", "kto_tag"),
)


# ---- reading ---------------------------------------------------------------------------------------------------------


def rows(source: Path, *, dataset: str = "") -> Iterator[tuple[str, Any]]:
    """Each row with its `Layout`, or None where no file describes it."""
    info = source / INFO if source.is_dir() else source
    if info.name == INFO and info.is_file():
        source, layout = _described(info, dataset)
    elif dataset:
        raise InputError(f"goes with a {INFO}", field="dataset")
    else:
        layout = None
    for place, row in _tables.rows(source):
        yield place, (layout, row)


def _described(info: Path, name: str) -> tuple[Path, Layout]:
    """The file of a data set, or its folder, and its layout."""
    entries = _entries(info)
    if not name and len(entries) == 1:
        name = next(iter(entries))
    if name not in entries:
        raise InputError(f"which of {', '.join(entries)}? Give --option dataset=NAME", file=info, field="dataset")
    entry = entries[name]
    file = entry.get("file_name") if isinstance(entry, Mapping) else None
    if not isinstance(file, str):
        raise InputError("names no file; what is on a hub is read by --from hf_datasets", file=info, field=name)
    layout = _OPENAI if entry.get("formatting") == "openai" else Layout(entry.get("formatting", "alpaca"))
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    if not all(isinstance(named, Mapping) and _names(named) for named in (columns, tags)):
        raise InputError("columns and tags must be objects of names", file=info, field=name)
    if columns:  # a column that is not named is not read, whatever the row has
        layout = replace(layout, **{column: columns.get(column) for column in _OPTIONAL})
        layout = replace(layout, messages=columns.get("messages") or layout.messages)
    tags = {tag: tags[tag] for tag in _TAGS if tags.get(tag)}
    return info.parent / file, replace(layout, **tags)


def _names(named: Mapping[str, Any]) -> bool:
    return all(name is None or isinstance(name, str) for name in named.values())


def _entries(info: Path) -> dict[str, Any]:
    entries = _tables.load_json(info)
    if not isinstance(entries, dict):
        raise InputError("expected an object of data sets by name", file=info)
    return entries


def _guess(row: Mapping[str, Any]) -> Layout:
    return Layout("sharegpt") if "conversations" in row else _OPENAI if "messages" in row else Layout()


def reads(row: Any) -> set[str | None]:
    """The columns that a row's layout names; ``chosen`` beside turns, but no ``instruction``."""
    layout, row = row
    layout = layout or _guess(row)
    alpaca = layout.formatting == "alpaca"
    columns = _OPTIONAL if alpaca else set(_OPTIONAL) - {"prompt", "query", "response", "history"}
    return {"id", None if alpaca else layout.messages, *(getattr(layout, column) for column in columns)}


def record(row: Any, media: Media) -> dict[str, Any]:
    """What a row says by its layout; its id is a column ``id``, if there is one."""
    layout, row = row[0], mapping(row[1])
    layout = layout or _guess(row)
    columns = {column: row.get(name) for column in _OPTIONAL if (name := getattr(layout, column))}
    for column in ("tools", "audios"):
        if columns.get(column) and columns[column] != "[]":
            raise Unfit(column, "a record has no such field", field=getattr(layout, column))
    turns = _from_alpaca(columns) if layout.formatting == "alpaca" else _from_sharegpt(row, layout)
    chosen, rejected = (_answer(columns.get(side), layout) for side in ("chosen", "rejected"))
    if columns.get("system"):
        turns = [("system", columns["system"]), *turns]
    if chosen is None or rejected is None:
        side = "rejected" if columns.get("kto_tag") is False else "chosen"
        turns, said = turns[:-1], turns[-1:]
        if not said or said[0][0] != "assistant":
            raise Unfit("no_answer", "there is neither a pair nor a last turn of the assistant")
        sides = {"prompt": _prompt(turns), side: _tagged.response(said[0][1])}
    else:
        sides = pair(_prompt(turns), chosen, rejected)
        for text in (chosen, rejected):
            _tagged.response(text)
    return {
        "id": row.get("id"),
        **sides,
        "images": [media.picture(path) for path in _listed(columns.get("images"))],
        "videos": [media.video(path) for path in _listed(columns.get("videos"))],
    }


def _prompt(turns: list[tuple[str, Any]]) -> list[Message]:
    return [_tagged.message(*turn) for turn in turns]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _from_alpaca(columns: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The turns, with the answer unless there is a pair."""
    turns = [turn for both in history(columns.get("history")) for turn in both]
    asked = [text for name in ("prompt", "query") if (text := columns.get(name))]
    turns.append(("user", "\n".join(map(question, asked))))
    if columns.get("response") and not (columns.get("chosen") and columns.get("rejected")):
        turns.append(("assistant", columns["response"]))
    return turns


def _from_sharegpt(row: Mapping[str, Any], layout: Layout) -> list[tuple[str, Any]]:
    roles = {layout.user_tag: "user", layout.assistant_tag: "assistant", layout.system_tag: "system"}
    messages = row.get(layout.messages)
    if not isinstance(messages, list) or not messages:
        raise Unfit("turns", "expected a list of turns", field=layout.messages)
    turns = [(mapping(turn).get(layout.role_tag), turn.get(layout.content_tag)) for turn in messages]
    for speaker, _ in turns:
        if not isinstance(speaker, str) or speaker not in roles:
            raise Unfit("turns", f"{speaker!r} is none of {', '.join(roles)}", field=layout.messages)
    return [(roles[speaker], text) for speaker, text in turns]


def _answer(side: Any, layout: Layout) -> str | None:
    """The text of a side, which is a turn, or a string in alpaca."""
    return side.get(layout.content_tag) if isinstance(side, Mapping) else side


# ---- writing ---------------------------------------------------------------------------------------------------------


def row(record: Record, media: Media) -> tuple[str, dict[str, Any]]:
    """Which file a record goes into, ``""`` or ``"sft"``, and its row."""
    turns = [{"from": _TAGS[f"{turn['role']}_tag"], "value": _tagged.text(turn)} for turn in _alternating(record)]
    sides = {side: _said(getattr(record, side)) for side in ("chosen", "rejected") if getattr(record, side)}
    paths = {name: list(getattr(record, name)) for name in ("images", "videos")}
    for path in [*record.images, *record.videos]:
        media.whole(path)
    if record.rejected is None:
        return "sft", {"id": record.id, "conversations": [*turns, sides["chosen"]], **paths}
    return "", {"id": record.id, "conversations": turns, **sides, **paths}


def _said(messages: list[Message]) -> dict[str, str]:
    return {"from": _TAGS["assistant_tag"], "value": _tagged.text(messages[0])}


def _alternating(record: Record) -> list[Message]:
    """The prompt, which LLaMA-Factory wants as user, assistant, ..., user after at most one turn of the system."""
    turns = record.prompt[1:] if record.prompt[0]["role"] == "system" else record.prompt
    if [turn["role"] for turn in turns] != ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]:
        raise Unfit("turns", "turns must alternate between user and assistant", field="prompt")
    if any(block["type"] != "text" for turn in record.prompt for block in turn["content"] if turn["role"] == "system"):
        raise Unfit("tags", "media in the system's turn are not looked for", field="prompt")
    return record.prompt


def save(rows: Iterable[tuple[str, Any]], target: Path) -> None:
    """The files, and their entries in `INFO`."""
    info = target.parent / INFO
    entries = _entries(info) if info.exists() else {}
    for part in ("", "sft"):
        file = _tables.part_of(target, part)
        if file.stem in entries and entries[file.stem].get("file_name") != file.name:
            raise InputError(
                "describes another file under this name: give another --output", file=info, field=file.stem
            )
    for part, file in _tables.save_parts(rows, target).items():
        entries[file.stem] = _entry(file, ranking=not part)
    with atomic_write(info) as out:
        out.write(json.dumps(entries, indent=2, ensure_ascii=False).encode() + b"\n")


def _entry(file: Path, *, ranking: bool) -> dict[str, Any]:
    columns = _COLUMNS if ranking else {name: _COLUMNS[name] for name in ("messages", "images", "videos")}
    return {
        "file_name": file.name,
        "formatting": "sharegpt",
        **({"ranking": True} if ranking else {}),
        "columns": columns,
        "tags": _TAGS,
    }
