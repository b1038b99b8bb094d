"""Formats that `mmalign convert` reads and writes: one file each, whose name is the format's.

The first line of a file's docstring is what ``mmalign convert --help`` says of it. A format that can be read has

- ``record(row, media) -> dict``: what one row says, as the JSON object of a `mmalign.records.Record`. ``id`` is the
  source's own, repeated or missing where it is so there: the core makes ids unique. Names of media come from ``media``
  (`mmalign.interop._media.Media`), which looks after paths, bytes and what is wrong with them. A row that cannot be
  used raises `Unfit` or another InputError, and is dropped, counted and listed. Called from several threads at a time.
- ``READS``: the names of the columns that ``record`` looks at; or a function ``reads(row)`` that gives them, if rows
  differ. Others are counted as not read, and end the conversion where training would learn from them, unless the user
  says to leave them out. A format without it has nothing said of them.
- ``rows(source) -> Iterator[(place, row)]``, if the rows are not simply those of JSONL, JSON or parquet files
  (`mmalign.interop._tables.rows`). What it raises ends the conversion. A row may be a tuple, whose last item is the
  source's own row.
- ``OPTIONS``, optional: option -> what it is. ``rows`` is given those that the user named (``--option NAME=VALUE``), as
  keywords with string values.

A format that can be written has

- ``CARRIES``: the fields of a record that it can carry, ``id`` too if it does. Another one that changes what is learnt
  is refused, or dropped where the user says so.
- ``NEEDS``, optional: the fields that a record must have.
- ``row(record, media) -> Any``: the row of one record, in several threads too. What it raises as InputError drops the
  record, counted and listed.
- ``lost(record) -> Iterable[str]``, optional: what else it cannot carry of this record, as ``chosen_scores.fluency``.
  ``row`` leaves it out.
- ``save(rows, target)``, optional: writes all rows, whole or not at all. By default, JSONL or a JSON list by the
  target's ending (`mmalign.interop._tables.save`).
"""

from __future__ import annotations

from mmalign.records import InputError

__all__ = ["Unfit"]


class Unfit(InputError):
    """A row or record that is not converted. ``reason`` is the word that it is counted under."""

    def __init__(self, reason: str, problem: str, *, field: str | None = None) -> None:
        super().__init__(problem, field=field)
        self.reason = reason
