"""Can an objective learn from a record? Asked of every record before a training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.forward.encoding import has_context, record_numbers, split_view
from mmalign.objectives import ALWAYS_GIVEN, Objective, counted_terms, name_of, numbers_of
from mmalign.records import InputError, Record

CONTEXT_OF = {
    "rejected_images": "rejected_media",
    "rejected_videos": "rejected_media",
    "rejected_prompt": "rejected_prompt",
}
"""Columns that only some objectives look at, and the context of a view that does."""

FIELD_OF = {"strength": "strength", "margin": "chosen_scores", "difficulty": "difficulty"}
"""Numbers that mean something to some objectives only, and the fields that they come from."""

IGNORABLE = (*CONTEXT_OF, *FIELD_OF)


class Usable:
    """A check of records, for one objective.

    Args:
        objective: what is to learn from them, and from all that they say.
        ignore: columns and numbers that may go unused, of `IGNORABLE`.
        in_order: whether difficulty has had its say: records are learnt in its order, or in that of their file, or they
            were chosen by it.
    """

    def __init__(self, objective: Objective, ignore: Sequence[str] = (), *, in_order: bool = False) -> None:
        self.objective = objective
        self.name = name_of(objective)
        self.numbers = numbers_of(objective)
        self.ignore = {*ignore, *(["difficulty"] if in_order else [])}
        self._known: dict[object, bool] = {}
        self._seen: set[str] = set()

    def __call__(self, record: Record) -> None:
        """Raise InputError if no term of the objective counts the record, or the objective does not read all of it."""
        have = {view: _responses(record, view) for view in self.objective.views}
        self._seen.update(view for view, count in have.items() if count)
        numbers = record_numbers(record)
        if "density" in self.numbers and not 0 <= numbers.get("density", 0) <= 1:
            raise InputError(f"density {numbers['density']:g} is no probability", field="rejected_scores")
        read = {name: value for name, value in numbers.items() if name in self.numbers}
        if not self._counted(have, read):
            missing = [view for view, count in have.items() if not count] or self._lacking(read)
            says = (
                f"its {', '.join(sorted(read))} says nothing"
                if read
                else "all that it reads is there, and no term counts it"
            )
            why = f"it lacks {', '.join(missing)}" if missing else says
            raise InputError(f"{self.name} has nothing to learn from it: {why}")
        if "spans" in self.objective.needs and not (record.chosen_spans or record.rejected_spans):
            raise InputError(
                f"{self.name} rewards what lies inside spans, and the record has none", field="chosen_spans"
            )
        contexts = {split_view(view)[1] for view in self.objective.views}
        for field, context in CONTEXT_OF.items():
            if getattr(record, field) and context not in contexts and field not in self.ignore:
                raise InputError(f"{self.name} does not look at it: leave it out, or say --ignore {field}", field=field)
        for number, field in FIELD_OF.items():
            if number in numbers and number not in {*self.numbers, *self.ignore}:
                raise InputError(self._unread(number), field=field)

    def whole(self, file: str) -> None:
        """Raise InputError if no record so far has one of the objective's views: another objective would be trained."""
        for view in self.objective.views:
            if view not in self._seen:
                response, context = split_view(view)
                parts = {"rejected_media": "rejected_images or rejected_videos", "": ""}.get(context, context)
                needed = " and ".join(part for part in (response, parts) if part)
                raise InputError(
                    f"no record has {needed}, which {self.name} scores as {view}: without, it is another objective",
                    file=file,
                )

    def _lacking(self, read: Mapping[str, Any]) -> list[str]:
        missing = sorted(self.numbers - read.keys())
        scores = [name.removeprefix("margin/").replace("margin", "reward") for name in missing if "margin" in name]
        hint = f" (of scores named {', '.join(scores)}, in chosen_scores and rejected_scores)" if scores else ""
        return [*missing[:-1], missing[-1] + hint] if missing else []

    def _unread(self, number: str) -> str:
        if number == "difficulty":
            why = "difficulty says in which order to learn"
            instead = "say --curriculum easy_to_hard, or sort the file by it and say --shuffle false"
        else:
            why, instead = f"{self.name} does not read its {number}", "take an objective that does"
        return f"{why}: {instead}, or say --ignore {number}"

    def _counted(self, have: Mapping[str, int], numbers: Mapping[str, Any]) -> bool:
        """Whether any term counts a record with so many responses of each view, and with these numbers.

        Records of few kinds come by the million, so each kind is asked about once.
        """
        kind = (tuple(have.values()), repr(sorted(numbers.items())))
        if kind not in self._known:
            views = {view: torch.ones(1, max(1, count), dtype=torch.bool) * (count > 0) for view, count in have.items()}
            views = {view: has if split_view(view)[0] == "responses" else has[:, 0] for view, has in views.items()}
            terms = counted_terms(self.objective, views, {name: _alone(name, numbers) for name in self._asked})
            if len(self._known) > _KINDS:  # numbers that are all different make a kind of every record
                self._known.clear()
            self._known[kind] = any(bool(present.any()) for present in terms.values())
        return self._known[kind]

    @property
    def _asked(self) -> set[str]:
        return {*ALWAYS_GIVEN, *self.numbers}


_KINDS = 10_000


def _alone(name: str, numbers: Mapping[str, Any]) -> Tensor:
    """A record's number, as in a batch of one. Shape: (1,), or (1, K) for scores."""
    missing: Any = {"weight": 1.0, "scores": [float("nan")]}.get(name, float("nan"))
    return torch.tensor([numbers.get(name, missing)])


def _responses(record: Record, view: str) -> int:
    """How many responses of a view the record has."""
    response, context = split_view(view)
    found = getattr(record, response) if has_context(record, context) else None
    return len(found or ()) if response == "responses" else int(bool(found))
