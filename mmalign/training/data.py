"""The records of a run: read once, checked, and those chosen that it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmalign.forward import Usable, rough_length
from mmalign.objectives import Objective
from mmalign.records import InputError, Record, RecordFile
from mmalign.training.curriculum import Curriculum
from mmalign.training.options import DataOptions, Flags


class Selected(Sequence[Record]):
    """Some of the records of a file, in its order.

    Args:
        file: all of them.
        places: of those that are meant.
    """

    def __init__(self, file: RecordFile, places: Sequence[int]) -> None:
        self.file = file
        self.places = np.asarray(places, dtype=np.int64)
        self.path, self.media_root = file.path, file.media_root

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:
        return self.file[int(self.places[index])]

    def line_of(self, index: int) -> int:
        """The line, counted from 1, on which a record stands."""
        return self.file.line_of(int(self.places[index]))


class RunData(NamedTuple):
    """What a run learns from.

    Attributes:
        records: in the order of their file.
        lengths: how long each is, roughly. Shape: (count,).
        difficulties: of each, if they are asked for. Shape: (count,).
        held_out: what it is measured on, if anything.
        clips: whether any of them shows one.
    """

    records: Selected
    lengths: np.ndarray
    difficulties: np.ndarray | None
    held_out: Selected | None = None
    clips: bool = False

    def curriculum(self, data: DataOptions) -> Curriculum | None:
        """The way through them that the flags say.

        Raises:
            InputError: it has more parts than there are records.
        """
        if data.curriculum is None:
            return None
        if data.curriculum_parts and data.curriculum_parts > len(self.records):
            raise InputError(
                f"--curriculum_parts {data.curriculum_parts}: there are {len(self.records)} records", file=data.data
            )
        assert self.difficulties is not None
        return Curriculum(self.difficulties, data.curriculum, data.curriculum_parts, data.replay)

    def __str__(self) -> str:
        count, all_of = len(self.records), len(self.records.file)
        return f"{count} records" if count == all_of else f"{count} of {all_of} records"


def of(given: Flags) -> RunData:
    """What a run learns from and is measured on.

    Raises:
        InputError: see `read`.
    """
    found = read(given.data.data, given.data, given.objective)
    found.curriculum(given.data)
    if given.data.eval_data is None:
        return found
    return found._replace(held_out=read(given.data.eval_data, given.data, given.objective, held_out=True).records)


def read(path: str, data: DataOptions, objective: Objective, *, held_out: bool = False) -> RunData:
    """The records of a file that a run learns from, or is measured on.

    Every one of them is read once: what is wrong is better found now than hours from now.

    Args:
        held_out: these are not learnt from: all of them count, whatever their difficulty.

    Raises:
        InputError: there are none, or one cannot be used, and the message says on which line.
    """
    file = RecordFile(Path(path), Path(data.media_root) if data.media_root else None)
    if not len(file):
        raise InputError("no records in it", file=path)
    first: dict[str, int] = {}
    places, lengths, difficulties, clips = [], [], [], False
    ordered = bool(data.difficulty or data.curriculum)
    check = Usable(objective, data.ignore, in_order=not data.shuffle or ordered)
    for place, record in enumerate(file):
        line = file.line_of(place)
        if first.setdefault(record.id, line) != line:
            raise InputError(f"{record.id!r} stands on line {first[record.id]} too", file=path, line=line, field="id")
        try:
            difficulty = _difficulty(record) if ordered and not held_out else None
            if difficulty is not None and not _within(difficulty, data.difficulty):
                continue
            check(record)
        except InputError as error:
            raise InputError(error.problem, file=path, line=line, field=error.field) from None
        places.append(place)
        lengths.append(rough_length(record, data.frames))
        difficulties.append(difficulty)
        clips = clips or bool(record.videos or record.rejected_videos)
    if not places:
        raise InputError(f"no record has --difficulty {' '.join(f'{each:g}' for each in data.difficulty)}", file=path)
    check.whole(path)
    given = np.array(difficulties) if ordered and not held_out else None
    return RunData(Selected(file, places), np.array(lengths), given, clips=clips)


def difficulties(path: str, within: Sequence[float]) -> list[float]:
    """The distinct difficulties of a file's records, smallest first.

    Args:
        within: only those; see `DataOptions.difficulty`.

    Raises:
        InputError: a record has none, or none is within.
    """
    found = set()
    file = RecordFile(Path(path))
    for place, record in enumerate(file):
        try:
            found.add(_difficulty(record))
        except InputError as error:
            raise InputError(error.problem, file=path, line=file.line_of(place), field=error.field) from None
    chosen = sorted(difficulty for difficulty in found if _within(difficulty, within))
    if not chosen:
        raise InputError("no record has such a difficulty" if found else "no records in it", file=path)
    return chosen


def _difficulty(record: Record) -> float:
    if record.difficulty is None:
        raise InputError("records are to be taken by their difficulty, and this one has none", field="difficulty")
    return float(record.difficulty)


def _within(difficulty: float, bounds: Sequence[float]) -> bool:
    """Whether it is the one of ``bounds``, or between the two; always, where there are none."""
    return not bounds or bounds[0] <= difficulty <= bounds[-1]
