"""The order in which a training run sees its records: data, not chance.

One global order an epoch is cut into steps, and a step's records are dealt to micro-batches and ranks. So the
records of an optimisation step are the same for one process as for many, whatever the accumulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from mmalign import runs
from mmalign.training.curriculum import Curriculum

POOL = 50
"""Steps among which records are put together by length: enough for like ones to be there, and chance for the rest."""

Item = tuple[int, bool]
"""Index of a record, and whether it counts (see `mmalign.forward.EncodedRecord.counted`)."""


class EpochOrder(Sampler[list[Item]]):
    """Micro-batches of one rank.

    The last step of an epoch is filled up with records that do not count, so that every rank makes the same
    number of calls and no record counts twice.

    Args:
        count: number of records.
        batch_size: of one rank's micro-batch.
        rank, world_size: this process among all.
        seed: of the shuffle; None keeps the file's order.
        lengths: of the records, roughly, if records of like length are to share a step. Shape: (count,).
        step_size: records of an optimisation step, with ``lengths``.
        curriculum: the parts in which they are learnt, if not all in one; with a seed.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int | None,
        lengths: np.ndarray | None = None,
        step_size: int = 1,
        curriculum: Curriculum | None = None,
    ) -> None:
        self.count = count
        self.size = count if curriculum is None else curriculum.size
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.lengths = lengths
        self.step_size = step_size
        self.curriculum = curriculum
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """The records in the order of this epoch, those of a curriculum that come again among them. Shape: (size,)."""
        if self.seed is None:
            return np.arange(self.count)
        generator = np.random.default_rng(runs.stable_seed("order", self.seed, self.epoch))
        shuffled = generator.permutation(self.count)
        parts = [shuffled] if self.curriculum is None else list(self.curriculum.parts(shuffled, generator))
        if self.lengths is not None:
            starts = np.cumsum([0, *map(len, parts)])
            parts = [self._grouped(part, int(start), generator) for part, start in zip(parts, starts, strict=False)]
        return np.concatenate(parts)

    def _grouped(self, part: np.ndarray, start: int, generator: np.random.Generator) -> np.ndarray:
        """Like lengths beside each other: each pool of some steps is sorted, and its steps are shuffled again.

        What fills the step up that the part before has begun stays in front, and what is over after the last whole
        step at the end. Shape: (P,) both, of one part.

        Args:
            start: how many records of the epoch come before.
        """
        first = min(-start % self.step_size, len(part))
        last = len(part) - (len(part) - first) % self.step_size
        pools = []
        for begin in range(first, last, POOL * self.step_size):
            pool = part[begin : min(begin + POOL * self.step_size, last)]
            steps = pool[np.argsort(-self.lengths[pool], kind="stable")].reshape(-1, self.step_size)
            pools.append(generator.permutation(steps).ravel())
        return np.concatenate([part[:first], *pools, part[last:]])

    def __len__(self) -> int:
        return math.ceil(self.size / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Item]]:
        order = self.order()
        for micro_batch in range(len(self)):
            start = (micro_batch * self.world_size + self.rank) * self.batch_size
            places = range(start, start + self.batch_size)
            yield [(int(order[min(place, self.size - 1)]), place < self.size) for place in places]


class OrderedLoader(DataLoader):
    """A DataLoader over an `EpochOrder` that tells it the epoch, as transformers.Trainer announces it."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)
