"""TRL: parquet of prompt, chosen, rejected and the pictures themselves, as its DPOTrainer takes it.

Columns as in TRL 1.16 (docs/source/dataset_formats.md, ``DataCollatorForVisionPreference``)::

    {"id": "a", "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
     "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
     "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}],
     "images": [{"bytes": b"...", "path": "a.png"}]}

Written: one parquet file with these columns, whose pictures ``datasets.load_dataset("parquet", data_files=...)`` gives
decoded. TRL does not look at ``id``. It would drop videos, other media of the rejected side, spans and weights without
a word, so none of them is written. A picture goes in as it is where everyone decodes it alike; one that is
transparent, grey, 16 bits deep or has a palette goes in as the RGB that mmalign trains on.

Read, beside that: ``image`` for one picture, pictures inside the blocks, plain strings (a prompt's own ``<image>`` is
where its picture stands), conversations whose prompt is what both sides begin with, ``messages`` or ``completion``
(with ``label``) where there is no pair, scores in ``score_chosen`` and ``score_rejected`` or a ``margin``, and a column
``videos``, which TRL itself does not see. A pair of plain strings without a prompt is refused, since nothing says
where the prompt ends; so are rows with tools.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmalign.interop import _tables, _tagged
from mmalign.interop._media import Media
from mmalign.interop._turns import IMAGE, answer, mapping, pair, question
from mmalign.interop.formats import Unfit
from mmalign.media import open_image
from mmalign.records import InputError, Record, atomic_write

if TYPE_CHECKING:
    from datasets import Features

READS = frozenset(
    {
        *("id", "prompt", "chosen", "rejected", "completion", "label", "messages", "images", "image", "videos"),
        *("score_chosen", "score_rejected", "margin", "tools", "chat_template_kwargs"),
    }
)
CARRIES = frozenset({"id", "chosen", "rejected", "images", "videos"})  # videos: for `row` to refuse, see `lost`
NEEDS = ("chosen", "rejected")

ROW_GROUP = 64 * 2**20
"""Bytes of pictures from which on a row group is written: what is held in memory, here and by a reader."""

_ROWS = 1000  # in a row group at most

Side = str | list[Any]


# ---- reading ---------------------------------------------------------------------------------------------------------


def rows(source: Path) -> Iterator[tuple[str, Any]]:
    """The rows of parquet or JSON files, or of a folder that ``Dataset.save_to_disk`` wrote."""
    if (source / "state.json").is_file():
        from mmalign.interop.formats import hf_datasets

        return hf_datasets.rows(source)
    return _tables.rows(source)


def record(row: Any, media: Media) -> dict[str, Any]:
    """What a row says, with its own id if it has one."""
    row = {name: value for name, value in mapping(row).items() if value is not None}
    for name in ("tools", "chat_template_kwargs"):
        if row.get(name) and row[name] != "[]":
            raise Unfit("tools", "a record has no such field, and the prompt depends on it", field=name)
    prompt, sides = _prompt_and_sides(row)
    said = [_text(side) for side in sides.values()]
    pair([], *said) if len(said) == 2 else answer(*said)
    pictures = _listed(row.get("images", row.get("image")))
    if isinstance(prompt, str):
        question(prompt)
        placed = pictures and prompt.count(IMAGE) == len(pictures)
        prompt = [_tagged.message("user", prompt) if placed else {"role": "user", "content": prompt}]
    else:
        prompt, pictures = _take_pictures(prompt, pictures)
        asked = prompt[-1].get("content") if prompt else None
        if not isinstance(asked, list):
            question(asked)
    return {
        "id": row.get("id"),
        "prompt": prompt,
        **{side: [_assistant(value)] for side, value in sides.items()},
        "images": [media.picture(picture) for picture in pictures],
        "videos": [media.video(clip) for clip in _listed(row.get("videos"))],
        **_scores(row, sides),
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _prompt_and_sides(row: Mapping[str, Any]) -> tuple[Side, dict[str, Side]]:
    """The prompt, and chosen or rejected or both without it."""
    sides = {side: row[side] for side in ("chosen", "rejected") if side in row}
    if not sides and "completion" in row:
        sides = {"chosen" if row.get("label", True) else "rejected": row["completion"]}
    if not sides and "messages" in row:
        return _cut(row["messages"], None, "messages")[0], {"chosen": row["messages"][-1:]}
    if not sides:
        raise Unfit("no_answer", "expected chosen and rejected, completion, or messages")
    prompt = row.get("prompt")
    if prompt is None and len(sides) == 2 and all(isinstance(side, list) for side in sides.values()):
        both = zip(*sides.values(), strict=False)
        prompt = [one for one, _ in takewhile(lambda turns: turns[0] == turns[1], both)]
    for side, value in sides.items():
        prompt, sides[side] = _cut(value, prompt, side)
    return prompt, sides


def _cut(side: Any, prompt: Side | None, field: str) -> tuple[Side, Side]:
    """The prompt and one answer of a side, which may begin with the prompt."""
    if isinstance(side, str) and prompt is not None:
        return prompt, side
    if not isinstance(side, list) or not side:
        problem = "expected a string or a list of messages" if prompt is not None else "the row has no prompt"
        raise Unfit("no_prompt" if prompt is None else "turns", problem, field=field)
    before, after = side[:-1], side[-1:]
    if prompt is None or isinstance(prompt, str):
        said = [turn.get("content") for turn in before if isinstance(turn, Mapping) and turn.get("role") == "user"]
        if before and prompt not in (None, *said[-1:]):
            raise Unfit("turns", "begins with another prompt than the column's", field=field)
        prompt = before or prompt
    elif before and before != prompt:
        raise Unfit("turns", "holds more than the prompt and one answer", field=field)
    if not prompt:
        raise Unfit("no_prompt", "nothing is asked before the answer", field=field)
    return prompt, after


def _text(side: Side) -> str:
    """The text of an answer; that it is one, `Record.parse` sees to."""
    content = mapping(_assistant(side)).get("content")
    blocks = content if isinstance(content, list) else [{"text": content}]
    return "".join(text for block in blocks if isinstance(text := mapping(block).get("text"), str))


def _assistant(side: Side) -> Any:
    return {"role": "assistant", "content": side} if isinstance(side, str) else side[0]


def _take_pictures(messages: Any, pictures: list[Any]) -> tuple[list[Any], list[Any]]:
    """Messages whose image blocks are bare, and all pictures in their order: those of blocks and those of the row."""
    if not isinstance(messages, list):
        raise Unfit("turns", "expected a string or a list of messages", field="prompt")
    waiting, taken, bare = iter(pictures), [], []
    for turn in map(mapping, messages):
        if isinstance(turn.get("content"), list):
            blocks = [mapping(block) for block in turn["content"]]
            for block in blocks:
                if block.get("type") == "image":
                    own = block.get("image")
                    taken += islice(waiting, 1) if own is None else [own]
            turn = {**turn, "content": [{k: v for k, v in block.items() if k != "image"} for block in blocks]}
        bare.append(turn)
    return bare, [*taken, *waiting]


def _scores(row: Mapping[str, Any], sides: Mapping[str, Any]) -> dict[str, Any]:
    """The reward of each side; a margin is a reward against 0."""
    given = {side: row.get(f"score_{side}") for side in sides}
    if row.get("margin") is not None and len(sides) == 2:
        given = {"chosen": row["margin"], "rejected": 0.0}
    return {f"{side}_scores": {"reward": score} for side, score in given.items() if score is not None}


# ---- writing ---------------------------------------------------------------------------------------------------------


def lost(record: Record) -> list[str]:
    """Clips, whose places in the prompt cannot be left out with them."""
    return ["videos"] if record.videos else []


def row(record: Record, media: Media) -> dict[str, Any]:
    """The row of a pair, pictures and all."""
    if record.videos:
        raise Unfit("videos", "has a clip, and the format has pictures alone", field="videos")
    turns = [*record.prompt, *record.chosen, *record.rejected]
    if extra := {key for turn in turns for key in turn} - {"role", "content"}:
        raise Unfit("tools", f"a message has {', '.join(sorted(extra))}")
    return {
        "id": record.id,
        "prompt": record.prompt,
        "chosen": record.chosen,
        "rejected": record.rejected,
        "images": [{"bytes": _pixels(name, media), "path": Path(name).name} for name in record.images],
    }


def _pixels(name: str, media: Media) -> bytes:
    """A picture file that any decoder turns into the pixels that mmalign trains on."""
    content = media.content(name)
    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "RGB" and not image.has_transparency_data:
            return content
    buffer = io.BytesIO()
    open_image(media.path(name)).save(buffer, "PNG")
    return buffer.getvalue()


def features() -> Features:
    """The columns, in the words of `datasets`."""
    from datasets import Features, List, Value
    from datasets import Image as Picture

    block = {"type": Value("string"), "text": Value("string")}
    messages = List({"role": Value("string"), "content": List(block)})
    texts = {"id": Value("string"), "prompt": messages, "chosen": messages, "rejected": messages}
    return Features({**texts, "images": List(Picture())})


def save(rows: Iterable[Any], target: Path) -> None:
    """One parquet file, written a row group at a time."""
    from pyarrow import Table
    from pyarrow.parquet import ParquetWriter

    if target.suffix != ".parquet":
        raise InputError("must end in .parquet", file=target)
    schema = features().arrow_schema
    with atomic_write(target) as file, ParquetWriter(file, schema) as writer:
        for group in _groups(rows):
            writer.write_table(Table.from_pylist(group, schema=schema))


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group, size = [], 0
    for one in rows:
        group.append(one)
        size += sum(len(picture["bytes"]) for picture in one["images"])
        if size >= ROW_GROUP or len(group) == _ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group
