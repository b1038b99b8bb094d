"""Can an objective learn from a record? Asked of every record before a training starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from mmalign.forward.encoding import NUMBERS, has_context, record_numbers, split_view
from mmalign.objectives import Objective, counted_terms
from mmalign.records import InputError, Record

MEDIA_VIEWS = {"rejected_images": "rejected_media", "rejected_videos": "rejected_media"}
"""Media columns that only some objectives look at, and the context that does."""


class Usable:
    """A check of records, for one objective.

    Args:
        objective: what is to learn from them, and from all of their media.
        ignore: media columns that may go unused.
    """

    def __init__(self, objective: Objective, ignore: Sequence[str] = ()) -> None:
        self.objective = objective
        self.ignore = ignore
        self._known: dict[object, bool] = {}

    def __call__(self, record: Record) -> None:
        """Raise InputError if no term of the objective counts the record, or it has media that no view looks at."""
        name = type(self.objective).__module__.rpartition(".")[2]
        have = {view: _responses(record, view) for view in self.objective.views}
        if not self._counted(have, record_numbers(record).keys()):
            missing = ", ".join(view for view, count in have.items() if not count)
            raise InputError(f"{name} has nothing to learn from it: it lacks {missing or 'numbers'}")
        if "spans" in self.objective.needs and not (record.chosen_spans or record.rejected_spans):
            raise InputError(f"{name} rewards what lies inside spans, and the record has none", field="chosen_spans")
        contexts = {split_view(view)[1] for view in self.objective.views}
        for field, context in MEDIA_VIEWS.items():
            if getattr(record, field) and context not in contexts and field not in self.ignore:
                raise InputError(f"{name} does not look at it: leave it out, or say --ignore {field}", field=field)

    def _counted(self, have: Mapping[str, int], numbers: Collection[str]) -> bool:
        """Whether any term counts a record with so many responses of each view, and with these numbers.

        Records of few kinds come by the million, so each kind is asked about once.
        """
        kind = (tuple(have.values()), frozenset(numbers))
        if kind not in self._known:
            views = {view: torch.ones(1, max(1, count), dtype=torch.bool) * (count > 0) for view, count in have.items()}
            views = {view: has if split_view(view)[0] == "responses" else has[:, 0] for view, has in views.items()}
            given = {name: torch.tensor([1.0 if name in (*numbers, "weight") else float("nan")]) for name in NUMBERS}
            terms = counted_terms(self.objective, views, given)
            self._known[kind] = any(bool(present.any()) for present in terms.values())
        return self._known[kind]


def _responses(record: Record, view: str) -> int:
    """How many responses of a view the record has."""
    response, context = split_view(view)
    found = getattr(record, response) if has_context(record, context) else None
    return len(found or ()) if response == "responses" else int(bool(found))
