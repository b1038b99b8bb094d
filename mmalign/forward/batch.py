"""The plain layout: every view of every record is a padded row of its own.

Legend of shapes: B records, R rows, T tokens of a row, K responses of a ranked list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmalign.backbones import Context, Response
from mmalign.forward.encoding import NUMBERS, EncodedRecord, split_view


@dataclass(frozen=True)
class Batch:
    """Rows for one call of the model, and where each view of each record is among them.

    Attributes:
        input_ids, mask: tokens and which of them are not padding; padded on the right. Shape: (R, T).
        tokenwise: further per-token inputs. Shape of each: (R, T).
        response: 1 on response tokens. Shape: (R, T).
        spans: 1 on response tokens inside the record's spans. Shape: (R, T).
        contexts: the distinct prompts of the batch, with their media.
        context_of: for each row the index of its prompt.
        rows: for each view the row of each record, -1 where it has none. Shape: (B,), or (B, K) for ranked lists.
        numbers: ``weight``, ``strength``, ``margin``, ``difficulty``; NaN where a record has none (weight: 1).
            Shape of each: (B,).
        counted: False for fillers. Shape: (B,).
    """

    input_ids: Tensor
    mask: Tensor
    tokenwise: dict[str, Tensor]
    response: Tensor
    spans: Tensor
    contexts: list[Context]
    context_of: list[int]
    rows: dict[str, Tensor]
    numbers: dict[str, Tensor]
    counted: Tensor

    @classmethod
    def of(cls, records: Sequence[EncodedRecord], views: Sequence[str], pad: int) -> Batch:
        """Lay encoded records out.

        Args:
            records: the micro-batch.
            views: in the order of the objective.
            pad: token that fills rows up; never seen by the model.
        """
        contexts = [context for record in records for context in record.contexts.values()]
        index = {id(context): i for i, context in enumerate(contexts)}
        content: list[tuple[Context, Response]] = []
        places: dict[str, list[list[int]]] = {}
        for view in views:
            places[view] = [_append_rows(content, record, view) for record in records]
        length = max(len(c.input_ids) + len(r.input_ids) for c, r in content)
        return cls(
            input_ids=_stack([torch.cat([c.input_ids, r.input_ids]) for c, r in content], length, pad),
            mask=_stack([torch.ones(len(c.input_ids) + len(r.input_ids)).long() for c, r in content], length, 0),
            tokenwise={key: _stack([c.tokenwise[key] for c, _ in content], length, 0) for key in contexts[0].tokenwise},
            response=_stack([_after(c, torch.ones_like(r.input_ids)) for c, r in content], length, 0),
            spans=_stack([_after(c, r.spans) for c, r in content], length, 0),
            contexts=contexts,
            context_of=[index[id(context)] for context, _ in content],
            rows={view: _row_index(view, rows) for view, rows in places.items()},
            numbers={name: _numbers(records, name) for name in NUMBERS},
            counted=torch.tensor([record.counted for record in records]),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``; media go there when the model takes them."""
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else {k: v.to(device) for k, v in value.items()}
            for name, value in vars(self).items()
            if name not in ("contexts", "context_of")
        }
        return replace(self, **moved)

    @property
    def size(self) -> int:
        """Number of records, fillers included."""
        return len(self.counted)

    @property
    def tokens(self) -> int:
        """Tokens that the language model reads, padding and fillers not counted."""
        rows = torch.cat([rows[self.counted].flatten() for rows in self.rows.values()])
        return int(self.mask[rows[rows >= 0]].sum())

    def present(self, view: str) -> Tensor:
        """Which records have the view and count. Shape: (B,)."""
        rows = self.rows[view]
        return (rows >= 0).reshape(self.size, -1).any(-1) & self.counted


def _append_rows(content: list, record: EncodedRecord, view: str) -> list[int]:
    """Add the rows of one view of one record; their numbers, none where it lacks the view."""
    name, context = split_view(view)
    if context not in record.contexts or name not in record.responses:
        return []
    start = len(content)
    content.extend((record.contexts[context], response) for response in record.responses[name])
    return list(range(start, len(content)))


def _row_index(view: str, rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    index = torch.tensor([r + [-1] * (max(width, 1) - len(r)) for r in rows])
    return index if split_view(view)[0] == "responses" else index[:, 0]


def _after(context: Context, values: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(context.input_ids), values])


def _stack(rows: list[Tensor], length: int, fill: int) -> Tensor:
    stacked = rows[0].new_full((len(rows), length), fill)
    for row, values in zip(stacked, rows, strict=True):
        row[: len(values)] = values
    return stacked


def _numbers(records: Sequence[EncodedRecord], name: str) -> Tensor:
    missing = 1.0 if name == "weight" else float("nan")
    return torch.tensor([record.numbers.get(name, missing) for record in records])
