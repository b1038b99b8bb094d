"""Can an objective learn from a record? Asked of every record before a training starts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from mmalign.forward.encoding import NUMBERS, has_context, record_numbers, split_view
from mmalign.objectives import Objective, counted_terms
from mmalign.records import InputError, Record

MEDIA_VIEWS = {"rejected_images": "rejected_media", "rejected_videos": "rejected_media"}
"""Media columns that only some objectives look at, and the context that does."""


def check_usable(record: Record, objective: Objective, ignore: Sequence[str] = ()) -> None:
    """Raise unless ``objective`` can learn from the record, and from all of its media.

    Args:
        ignore: media columns that may go unused.

    Raises:
        InputError: no term of the objective counts the record, or it has media that no view looks at.
    """
    name = type(objective).__module__.rpartition(".")[2]
    have = tuple((view, _responses(record, view)) for view in objective.views)
    if not _counts(objective, have, frozenset(record_numbers(record))):
        missing = ", ".join(view for view, count in have if not count)
        raise InputError(f"{name} has nothing to learn from it: it lacks {missing or 'numbers'}")
    contexts = {split_view(view)[1] for view in objective.views}
    for field, context in MEDIA_VIEWS.items():
        if getattr(record, field) and context not in contexts and field not in ignore:
            raise InputError(f"{name} does not look at it: leave it out, or say --ignore {field}", field=field)


def _responses(record: Record, view: str) -> int:
    """How many responses of a view the record has."""
    response, context = split_view(view)
    found = getattr(record, response) if has_context(record, context) else None
    return len(found or ()) if response == "responses" else int(bool(found))


@lru_cache(maxsize=1024)
def _counts(objective: Objective, have: tuple[tuple[str, int], ...], numbers: frozenset[str]) -> bool:
    """Whether any term counts a record with so many responses of each view, and with these numbers."""
    views = {view: torch.ones(1, max(1, count), dtype=torch.bool) * (count > 0) for view, count in have}
    views = {view: has if split_view(view)[0] == "responses" else has[:, 0] for view, has in views.items()}
    given = {name: torch.tensor([1.0 if name in {*numbers, "weight"} else float("nan")]) for name in NUMBERS}
    return any(bool(present.any()) for present in counted_terms(objective, views, given).values())
