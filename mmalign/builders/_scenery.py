"""Which shots of a clip show the same, and how often a clip comes back to what it showed (TEMPLE, arXiv 2503.16929)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmalign.builders import Drop


class Run(NamedTuple):
    """Shots that follow one another and show the same: the unit of all that comes after.

    Attributes:
        group: number of what they show; other runs may show it too.
        shots: their places among the shots, ascending.
    """

    group: int
    shots: list[int]


def cosines(vectors: np.ndarray) -> np.ndarray:
    """How alike each is to each, rounded to 6 digits. Shape: (N, D) -> (N, N), float64."""
    vectors = vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1.0)
    return (unit @ unit.T).round(6)


def groups(similarity: np.ndarray, above: float) -> list[list[int]]:
    """Shots that show the same: the two groups that are most alike are merged, while more alike than ``above``.

    How alike a new group is to a third one is the mean of what its two parts were (WPGMA), however many shots each has.
    Of pairs that are equally alike the first is taken.

    Args:
        similarity: of each shot with each. Shape: (N, N).

    Returns:
        Each group's shots, ascending; groups in the order of their first shots.
    """
    members = [[shot] for shot in range(len(similarity))]
    alike = np.array(similarity, dtype=np.float64)
    np.fill_diagonal(alike, -np.inf)
    while len(members) > 1 and alike.max() > above:
        one, other = sorted(np.unravel_index(alike.argmax(), alike.shape))
        alike[one] = alike[:, one] = (alike[one] + alike[other]) / 2
        alike[one, one] = -np.inf
        alike = np.delete(np.delete(alike, other, 0), other, 1)
        members[one] = sorted(members[one] + members.pop(other))
    return sorted(members)


def runs_of(groups: Sequence[Sequence[int]]) -> list[Run]:
    """The runs of a clip, in order: neighbouring shots of one group are one."""
    group_of = {shot: number for number, group in enumerate(groups) for shot in group}
    found: list[Run] = []
    for shot in sorted(group_of):
        if found and found[-1].group == group_of[shot]:
            found[-1].shots.append(shot)
        else:
            found.append(Run(group_of[shot], [shot]))
    return found


def refusal(found: Sequence[Run], *, least: int, share: int, most: int) -> Drop | None:
    """Why a clip of these runs tells no story, if it does not.

    Args:
        least: runs that it has to have.
        share: no group may have more than n // ``share`` of the n runs; one it may have always.
        most: nor more than so many.
    """
    if len(found) < least:
        return Drop("few_runs", f"{len(found)} of different shots")
    group, times = Counter(run.group for run in found).most_common(1)[0]
    allowed = max(1, min(len(found) // share, most))
    return Drop("recurring", f"group {group} in {times} of {len(found)} runs") if times > allowed else None
