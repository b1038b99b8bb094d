"""From easy to hard within a run: records are learnt in parts, in the order of their difficulty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DIRECTIONS = ("easy_to_hard", "hard_to_easy")


@dataclass(frozen=True, eq=False)
class Curriculum:
    """The parts of an epoch, which come one after the other; each is shuffled.

    Every epoch goes the whole way again.

    Attributes:
        difficulties: of the records; larger is harder. Shape: (count,).
        direction: of `DIRECTIONS`.
        count: into how many parts of equal size (or one record less) the sorted records are cut, ties by chance; None:
            each difficulty is a part.
        replay: what is added to each part after the first, as a share of its size: records of the parts before, each
            at most once while there are others.
    """

    difficulties: np.ndarray
    direction: str = "easy_to_hard"
    count: int | None = None
    replay: float = 0.0

    @cached_property
    def sizes(self) -> list[int]:
        """Records of each part, without those that come again."""
        if self.count is None:
            return np.unique(self._keys, return_counts=True)[1].tolist()
        return [len(part) for part in np.array_split(self._keys, self.count)]

    @property
    def replayed(self) -> list[int]:
        """How many of earlier parts are added to each."""
        return [0, *(round(self.replay * size) for size in self.sizes[1:])]

    @property
    def size(self) -> int:
        """Records of an epoch; those that come again count again."""
        return sum(self.sizes) + sum(self.replayed)

    def parts(self, shuffled: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """The records of each part, in the order in which they are learnt.

        Args:
            shuffled: all records, in any order. Shape: (count,).
            generator: what else is drawn comes from it.
        """
        ordered = shuffled[np.argsort(self._keys[shuffled], kind="stable")]
        start = 0
        for size, again in zip(self.sizes, self.replayed, strict=True):
            part = [ordered[start : start + size], _drawn(ordered[:start], again, generator)]
            yield generator.permutation(np.concatenate(part))
            start += size

    @property
    def _keys(self) -> np.ndarray:
        return self.difficulties if self.direction == "easy_to_hard" else -self.difficulties

    def __str__(self) -> str:
        parts = "1 part" if len(self.sizes) == 1 else f"{len(self.sizes):,} parts"
        again = f" and {sum(self.replayed):,} again" if self.replay else ""
        reach = f"difficulty {self.difficulties.min():g} to {self.difficulties.max():g}"
        return f"{self.direction}: {parts}, {reach}; an epoch has {sum(self.sizes):,} records{again}"


def _drawn(pool: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """So many of the pool; none comes once more than another. Shape: (count,)."""
    if not count:
        return pool[:0]
    rounds = [generator.permutation(pool) for _ in range(-(-count // len(pool)))]
    return np.concatenate(rounds)[:count]
