"""Hugging Face datasets: a folder or a name on the hub, with the columns of TRL or question, chosen, rejected, image.

What ``datasets`` can load, streamed: a folder that ``save_to_disk`` wrote, one of parquet, JSON or CSV files, one such
file, or a name on the hub, the only thing here that the network is used for (``HF_HUB_OFFLINE=1`` forbids it)::

    mmalign convert openbmb/RLAIF-V-Dataset --from hf_datasets --option split=train --output pairs.jsonl
    mmalign convert my_folder --from hf_datasets --option columns=prompt=ask,image=photo --output pairs.jsonl

Pictures keep their bytes: they are not decoded and encoded again. JSON files on disk are read as they are: `datasets`
would make one type of each column, and null of a NaN. The columns, once they have the names of `ALIASES`, are read as
`mmalign.interop.formats.trl` reads them. Code that comes with a data set is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.interop import _tables
from mmalign.interop.formats.trl import READS, record
from mmalign.records import InputError

if TYPE_CHECKING:
    from datasets import DatasetBuilder, IterableDataset

__all__ = ["ALIASES", "OPTIONS", "READS", "record", "rows"]

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
    number, absent, sparse = 0, set(named.values()), isinstance(dataset, Iterator)
    try:
        for number, row in enumerate(dataset, start=1):
            if isinstance(row, Mapping):
                absent -= row.keys()
                if absent and not sparse:  # all rows of a table have all columns
                    break
                row = _renamed(row, named)
            yield f"{name}:{number}", row
        if absent and number:
            there = f"; there are {', '.join(row)}" if isinstance(row, Mapping) else ""
            raise InputError(f"there is no column {min(absent)!r}{there}", field="columns")
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
        if old in row:
            row[new] = row.pop(old)
    for new, others in ALIASES.items():
        found = next((old for old in others if row.get(old) is not None), None)
        if row.get(new) is None and found:
            row[new] = row.pop(found)
    return row


def _load(source: Path, split: str, subset: str) -> tuple[str, Iterable[Any]]:
    """The name of the split, and its rows."""
    import datasets

    try:
        if any((source / name).is_file() for name in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(str(source))
        else:
            builder = datasets.load_dataset_builder(**_place(source), name=subset or None)
            found = _json_files(builder) or builder.as_streaming_dataset()
    except InputError:
        raise
    except Exception as error:  # each builder has errors of its own
        raise InputError(f"cannot be loaded: {_line(error)}", file=source) from None
    if isinstance(found, datasets.Dataset):
        return split or str(found.split or "row"), _with_bytes(found.to_iterable_dataset())
    name = split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else "")
    if name not in found:
        raise InputError(f"which of {', '.join(found)}? Give --option split=NAME", file=source, field="split")
    part: Any = found[name]
    if isinstance(part, list):
        return name, (row for file in part for _, row in _tables.rows(file))
    return name, _with_bytes(part.to_iterable_dataset() if isinstance(part, datasets.Dataset) else part)


def _json_files(builder: DatasetBuilder) -> dict[str, list[Path]]:
    """The files of each split, if all are JSON on this disk; else nothing."""
    splits = {name: [Path(file) for file in files] for name, files in (builder.config.data_files or {}).items()}
    plain = all(file.suffix in (".json", ".jsonl") and file.is_file() for files in splits.values() for file in files)
    return splits if plain and getattr(builder.config, "field", None) is None else {}


def _with_bytes(dataset: IterableDataset) -> IterableDataset:
    """The rows with their media as bytes or paths. All else is decoded: ``decode(False)`` alone leaves JSON as text."""
    if not dataset.features:  # texts have features once they are read, and no picture that could be decoded
        return dataset
    features = _undecoded(dict(dataset.features))
    return dataset.decode(False).cast(type(dataset.features)(features))


def _undecoded(feature: Any) -> Any:
    """A feature, in which media at any depth are not to be decoded."""
    from datasets import Audio, Image, LargeList, List, Video

    if isinstance(feature, dict):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, (List, LargeList)):
        return replace(feature, feature=_undecoded(feature.feature))
    return replace(feature, decode=False) if isinstance(feature, (Audio, Image, Video)) else feature


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
