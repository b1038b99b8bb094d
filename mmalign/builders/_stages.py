"""Results of long stages, kept in a folder by what they depend on, so that nothing is done twice.

A result stands in ``FOLDER/STAGE/ab/KEY.json``, where KEY is a fingerprint of all that it depends on (the bytes of a
clip, the options of this stage, the result of the stage before, the model that speaks) and ab its first two digits.
So runs with other options, other sources or another output share what they have in common, and any number of processes
may write at once: who is second writes the same again. What failed is kept too, with its reason, but where the machine
may be to blame and not the file (`PASSING`).

An entry appears whole or not at all, and has a checksum: one that is damaged is made anew.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign import runs
from mmalign.builders import Drop
from mmalign.records import atomic_write, json_line

PASSING = frozenset(("missing", "timeout", "crashed"))
"""Reasons of failures that may be gone the next time."""

_ABSENT = object()


@dataclass(frozen=True)
class Stages:
    """Where results are kept. ``folder`` None: nowhere, every one is made when it is asked for."""

    folder: Path | None = None

    def results(
        self, stage: str, depends_on: Sequence[Any], make: Callable[[list[int]], Iterable[Any | Drop]]
    ) -> list[Any | Drop]:
        """One result for each of ``depends_on``, in order; equal ones have one.

        Args:
            stage: its name, which is a part of the key.
            depends_on: what JSON can write, or paths of files; see `mmalign.runs.fingerprint`.
            make: is given the places in ``depends_on`` of what is not there yet, and gives a result for each: what JSON
                can write, or a Drop. Not called where nothing is missing.

        Returns:
            As JSON gives them back, lists for tuples say, whether they were there or not.
        """
        keys = [runs.fingerprint(stage, thing) for thing in depends_on]
        found = {key: self._read(stage, key) for key in keys}
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        missing = sorted(first[key] for key, result in found.items() if result is _ABSENT)
        for place, result in zip(missing, make(missing) if missing else (), strict=True):
            found[keys[place]] = self._keep(stage, keys[place], result)
        return [found[key] for key in keys]

    def result(self, stage: str, depends_on: Any, make: Callable[[], Any | Drop]) -> Any | Drop:
        """The result for one thing; see `results`."""
        [result] = self.results(stage, [depends_on], lambda _: [make()])
        return result

    def _path(self, stage: str, key: str) -> Path | None:
        return self.folder and self.folder / stage / key[:2] / f"{key}.json"

    def _read(self, stage: str, key: str) -> Any | Drop:
        path = self._path(stage, key)
        if path is None:
            return _ABSENT
        try:
            entry = json.loads(path.read_bytes())
            if zlib.crc32(json_line(entry["entry"])) != entry["crc32"]:
                return _ABSENT
            return _of_entry(entry["entry"])
        except (OSError, ValueError, KeyError, TypeError):
            return _ABSENT

    def _keep(self, stage: str, key: str, result: Any | Drop) -> Any | Drop:
        dropped = isinstance(result, Drop)
        entry = json_line({"drop": [result.reason, result.detail]} if dropped else {"result": result})
        path = self._path(stage, key)
        if path is not None and not (dropped and result.reason in PASSING):
            with atomic_write(path) as file:
                file.write(b'{"crc32": %d, "entry": %s}\n' % (zlib.crc32(entry), entry.rstrip()))
        return _of_entry(json.loads(entry))


def _of_entry(entry: dict[str, Any]) -> Any | Drop:
    return Drop(*entry["drop"]) if "drop" in entry else entry["result"]
