"""Hugging Face datasets: a folder or a name on the hub, with the columns of TRL or question, chosen, rejected, image.

What ``datasets`` can load, streamed: a folder that ``save_to_disk`` wrote, one of parquet, JSON or CSV files, one such
file, or a name on the hub, the only thing here that the network is used for (``HF_HUB_OFFLINE=1`` forbids it)::

    mmalign convert openbmb/RLAIF-V-Dataset --from hf_datasets --option split=train --output pairs.jsonl
    mmalign convert my_folder --from hf_datasets --option columns=prompt=ask,image=photo --output pairs.jsonl

Pictures keep their bytes: they are not decoded and encoded again. The columns, once they have the names of `ALIASES`,
are read as `mmalign.interop.formats.trl` reads them. Code that comes with a data set is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.interop.formats.trl import record
from mmalign.records import InputError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["ALIASES", "OPTIONS", "record", "rows"]

OPTIONS = {
    "split": "which split (default: train, or the only one)",
    "subset": "which configuration of a data set that has several",
    "columns": "what columns are called: prompt=question,images=photos",
}

ALIASES = {
    "id": ("idx", "question_id", "sample_id"),
    "prompt": ("question", "instruction", "query", "problem"),
    "chosen": ("chosen_response",),
    "rejected": ("rejected_response",),
}
"""For each column of TRL, what it is looked for under where it is absent."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def rows(source: Path, *, split: str = "", subset: str = "", columns: str = "") -> Iterator[tuple[str, Any]]:
    """(split:number, row) of every row, with columns renamed."""
    named = _columns(columns)
    name, dataset = _load(source, split, subset)
    number = 0
    try:
        # texts have features once they are read, and no picture that could be decoded
        for number, row in enumerate(dataset.decode(False) if dataset.features else dataset, start=1):
            yield f"{name}:{number}", _renamed(row, named)
    except InputError:
        raise
    except Exception as error:  # a library below, on a file that is broken or gone
        raise InputError(f"cannot be read after row {number}: {_line(error)}", file=source) from None


def _columns(text: str) -> dict[str, str]:
    """``prompt=question,images=photos`` as a mapping."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if any(not old.strip() for _, _, old in pairs):
        raise InputError(f"expected NAME=COLUMN,NAME=COLUMN, got {text!r}", field="columns")
    return {new.strip(): old.strip() for new, _, old in pairs}


def _renamed(row: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, Any]:
    row = dict(row)
    for new, old in named.items():
        if old not in row:
            raise InputError(f"there is no column {old!r}; there are {', '.join(row)}", field="columns")
        row[new] = row.pop(old)
    for new, others in ALIASES.items():
        found = next((old for old in others if row.get(old) is not None), None)
        if row.get(new) is None and found:
            row[new] = row.pop(found)
    return row


def _load(source: Path, split: str, subset: str) -> tuple[str, IterableDataset]:
    """The name of the split, and the split."""
    import datasets

    try:
        if any((source / name).is_file() for name in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(str(source))
        else:
            found = datasets.load_dataset(**_place(source), name=subset or None, streaming=True)
    except InputError:
        raise
    except Exception as error:  # each builder has errors of its own
        raise InputError(f"cannot be loaded: {_line(error)}", file=source) from None
    if isinstance(found, datasets.Dataset):
        return split or str(found.split or "row"), found.to_iterable_dataset()
    name = split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else "")
    if name not in found:
        raise InputError(f"which of {', '.join(found)}? Give --option split=NAME", file=source, field="split")
    part: Dataset | IterableDataset = found[name]
    return name, part.to_iterable_dataset() if isinstance(part, datasets.Dataset) else part


def _place(source: Path) -> dict[str, str]:
    """The arguments of ``load_dataset``: a folder, a file's builder with the file, or a name on the hub."""
    if source.is_file():
        builders = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".arrow": "arrow"}
        if source.suffix not in builders:
            raise InputError(f"ends in none of {', '.join(builders)}", file=source)
        return {"path": builders[source.suffix], "data_files": str(source)}
    if not source.is_dir() and not _HUB_NAME.fullmatch(str(source)):
        raise InputError("no such file or folder, and no name on the hub", file=source)
    return {"path": str(source)}


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
