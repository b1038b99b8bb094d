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
    ) -> None:
        self.count = count
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.lengths = lengths
        self.step_size = step_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """All records in the order of this epoch. Shape: (count,)."""
        if self.seed is None:
            return np.arange(self.count)
        generator = np.random.default_rng(runs.stable_seed("order", self.seed, self.epoch))
        order = generator.permutation(self.count)
        return order if self.lengths is None else self._grouped(order, generator)

    def _grouped(self, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Like lengths beside each other: each pool of some steps is sorted, and its steps are shuffled again.

        What is over after the last whole step stays at the end. Shape: (count,) both.
        """
        whole = self.count - self.count % self.step_size
        pools = []
        for start in range(0, whole, POOL * self.step_size):
            pool = order[start : min(start + POOL * self.step_size, whole)]
            steps = pool[np.argsort(-self.lengths[pool], kind="stable")].reshape(-1, self.step_size)
            pools.append(generator.permutation(steps).ravel())
        return np.concatenate([*pools, order[whole:]])

    def __len__(self) -> int:
        return math.ceil(self.count / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[Item]]:
        order = self.order()
        for micro_batch in range(len(self)):
            start = (micro_batch * self.world_size + self.rank) * self.batch_size
            places = range(start, start + self.batch_size)
            yield [(int(order[min(place, self.count - 1)]), place < self.count) for place in places]


class OrderedLoader(DataLoader):
    """A DataLoader over an `EpochOrder` that tells it the epoch, as transformers.Trainer announces it."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)
