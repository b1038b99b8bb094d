"""In which order a perturbation shows the units of a clip: how each kind makes one, and what one looks like.

``size`` is all that the level decides: units in a block or a window, units that are kept, or the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mmalign import runs

T = TypeVar("T")

TRIES = 64
"""Draws for an order that is not excluded. Of two blocks one order is left: all draws miss it once in 2**64 plans."""


class Draw:
    """Permutations from one seed: ``draw(5)`` is one of five numbers, and another one the next time."""

    def __init__(self, seed: int) -> None:
        self._seed, self._calls = np.uint64(seed), 0

    def __call__(self, count: int) -> list[int]:
        keys = runs.uniform(self._seed + np.arange(count, dtype=np.uint64), self._calls)
        self._calls += 1
        return np.argsort(keys, kind="stable").tolist()


def blocks(units: int, size: int) -> list[range]:
    """Consecutive units, ``size`` at a time; the last block may be shorter."""
    return [range(start, min(start + size, units)) for start in range(0, units, size)]


def join(parts: Iterable[Iterable[T]]) -> list[T]:
    """Parts, one after the other."""
    return [item for part in parts for item in part]


def is_identity(order: Sequence[int], units: int) -> bool:
    """Whether nothing is changed."""
    return len(order) == units and list(order) == list(range(units))


def _drop(units: int, size: int, draw: Draw) -> list[int]:
    return sorted(draw(units)[:size])


def _shuffle(units: int, size: int, draw: Draw) -> list[int]:
    cut = blocks(units, size)
    return join(cut[number] for number in draw(len(cut)))


def _reverse(units: int, size: int, draw: Draw) -> list[int]:
    return join(reversed(blocks(units, size)))


def _windows(units: int, size: int, draw: Draw) -> list[int]:
    return join((window[place] for place in draw(len(window))) for window in blocks(units, size))


def _splice(units: int, size: int, draw: Draw) -> list[int]:
    start = draw(size + 1)[0]
    strange = range(start, start + units - size)
    return [units + unit if unit in strange else unit for unit in range(units)]


def _repeat(units: int, size: int, draw: Draw) -> list[int]:
    kept = _drop(units, size, draw)
    return [kept[place * size // units] for place in range(units)]


def _speed(units: int, size: int, draw: Draw) -> list[int]:
    return list(range(0, units, size))


def _is_some(order: Sequence[int], units: int) -> bool:
    return list(order) == sorted(set(order)) and len(order) < units


def _is_permutation(order: Sequence[int], units: int) -> bool:
    return len(order) == units and sorted(order) == list(range(units)) != list(order)


def _is_splice(order: Sequence[int], units: int) -> bool:
    return len(order) == units <= max(order) and all(unit % units == place for place, unit in enumerate(order))


def _is_repeat(order: Sequence[int], units: int) -> bool:
    return len(order) == units > len(set(order)) and list(order) == sorted(order)


class Kind(NamedTuple):
    """A way to order units.

    Attributes:
        make: an order of so many units, from a size and a draw.
        is_one: whether an order of so many units, none of them negative, can be one of it.
        wanted: that in words.
        drawn: whether anything in it is left to chance.
    """

    make: Callable[[int, int, Draw], list[int]]
    is_one: Callable[[Sequence[int], int], bool]
    wanted: str
    drawn: bool = True


_SOME = (_is_some, "some of the units, ascending")
_ALL = (_is_permutation, "all units, in another order")

ORDERS: Mapping[str, Kind] = {
    "drop": Kind(_drop, *_SOME),
    "shuffle": Kind(_shuffle, *_ALL),
    "local_shuffle": Kind(_windows, *_ALL),
    "global_shuffle": Kind(_windows, *_ALL),
    "reverse": Kind(_reverse, *_ALL, drawn=False),
    "splice": Kind(_splice, _is_splice, "every unit at its place, or units + it"),
    "repeat": Kind(_repeat, _is_repeat, "as many as there are units, ascending, some of them more than once"),
    "speed": Kind(_speed, *_SOME, drawn=False),
}


def order_of(kind: str, units: int, size: int, seed: int, excluded: set[tuple[int, ...]]) -> tuple[int, ...] | None:
    """An order that changes something and is not ``excluded``; None where none was found in `TRIES` draws."""
    draw = Draw(seed)
    for _ in range(TRIES if ORDERS[kind].drawn else 1):
        order = tuple(ORDERS[kind].make(units, size, draw))
        if order not in excluded and not is_identity(order, units):
            return order
    return None
